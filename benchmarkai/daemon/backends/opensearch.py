from typing import Any, Mapping, Optional, Sequence, Union

from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.backends.bulk import BulkBackend
from benchmarkai.daemon.backends.http import TIMEOUT, basic_auth, error_for


class Backend(BulkBackend):
    """Write to OpenSearch.

    Each metric becomes a document with the fields @timestamp, name, value and labels. The index
    is created with their types unless it exists.

    \b
      $ bai-daemon opensearch --url http://localhost:9200 --index job-metrics
      $ BAI_DAEMON_PASSWORD=... bai-daemon opensearch --url https://os.example.com --user me \\
            --label run=42 -- ./my_benchmark.sh
    """

    def __init__(self, url: str, index: str, user: Optional[str], password: Optional[str]) -> None:
        import opensearchpy

        super().__init__(index)
        self._errors = opensearchpy.exceptions
        self._client = opensearchpy.OpenSearch(
            url,
            headers={"Authorization": basic_auth(user, password)} if user else {},
            timeout=TIMEOUT,
            max_retries=0,
        )

    def create_index(self, name: str, mapping: Mapping[str, Any]) -> None:
        self._client.indices.create(index=name, body={"mappings": mapping})

    def bulk(self, operations: Sequence[Mapping[str, Any]]) -> Any:
        return self._client.bulk(body=operations)

    def error_from(self, error: Exception) -> Union[None, Unavailable, Rejected]:
        failure = None
        if isinstance(error, self._errors.TransportError) and isinstance(error.status_code, int):
            failure = error_for(error.status_code, error)
        if failure is None and isinstance(error, self._errors.OpenSearchException):
            failure = Unavailable(str(error))
        return failure
