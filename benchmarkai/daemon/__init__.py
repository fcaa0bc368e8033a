"""bai-daemon: reads metrics from the named pipe, keeps them in a spool, and delivers them.

It needs Python 3.9 or newer.
"""
