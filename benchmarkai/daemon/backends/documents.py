"""Metrics in JSON, for the backends that send it."""

import json
from typing import List, Mapping, Sequence, Tuple

from benchmarkai.daemon.metric import Metric, format_time
from benchmarkai.daemon.series import SeriesCache

encode_text = json.JSONEncoder().encode  # json.dumps() takes twice as long


class Documents:
    """Writes the JSON of metrics as json.dumps() does, in less than half of its time.

    time: the name of the time.
    separators: as in json.dumps().
    """

    def __init__(self, time: str = "time", separators: Tuple[str, str] = (", ", ": ")) -> None:
        self._comma, self._colon = separators
        self._start = f'{{"{time}"{self._colon}"'
        self._encode = json.JSONEncoder(separators=separators).encode
        self._parts = SeriesCache(self._encode_series)

    def write(self, metrics: Sequence[Metric]) -> List[str]:
        """Return an object for each metric, without the brace at its end: more may follow."""
        start = self._start
        return [
            # The numbers are those of json.dumps().
            f"{start}{format_time(metric.time)}{before_value}{metric.value!r}{after_value}"
            for metric, (before_value, after_value) in zip(metrics, self._parts.of_each(metrics))
        ]

    def _encode_series(self, name: str, labels: Mapping[str, str]) -> Tuple[str, str]:
        """Return what is between the time and the value, and what follows the value."""
        comma, colon = self._comma, self._colon
        return (
            f'"{comma}"name"{colon}{self._encode(name)}{comma}"value"{colon}',
            f'{comma}"labels"{colon}{self._encode(labels)}',
        )
