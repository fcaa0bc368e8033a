"""The errors of FIFO mode: each says that metrics could not be delivered."""


class FifoError(Exception):
    """The named pipe could not take the metrics."""


class FifoNotCreatedInTimeError(FifoError):
    """Nothing stood at the pipe's path for the whole wait."""


class FifoNotReadInTimeError(FifoError):
    """Nobody read the pipe, or it stayed full, for the whole wait."""


class NotAFifoError(FifoError):
    """What stands at the pipe's path is not a named pipe."""
