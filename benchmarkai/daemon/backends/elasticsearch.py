from typing import Any, Mapping, Optional, Sequence, Union

from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.backends.bulk import BulkBackend
from benchmarkai.daemon.backends.http import TIMEOUT, basic_auth, error_for
from benchmarkai.daemon.options import secret_option


class Backend(BulkBackend):
    """Write to Elasticsearch 8 or newer.

    Each metric becomes a document with the fields @timestamp, name, value and labels. The index
    is created with their types unless it exists.

    \b
      $ bai-daemon elasticsearch --url http://localhost:9200 --index job-metrics
      $ BAI_DAEMON_API_KEY=... bai-daemon elasticsearch --url https://es.example.com \\
            --label run=42 -- ./my_benchmark.sh
    """

    options = [
        *BulkBackend.options,
        secret_option("--api-key", "an API key, in place of a user", is_ascii=True),
    ]

    def __init__(
        self,
        url: str,
        index: str,
        user: Optional[str],
        password: Optional[str],
        api_key: Optional[str],
    ) -> None:
        import elasticsearch

        if user and api_key:
            raise ValueError("give either a user or an API key, not both")
        super().__init__(index)
        self._errors = elasticsearch
        self._client = elasticsearch.Elasticsearch(
            url,
            headers={"Authorization": basic_auth(user, password)} if user else {},
            api_key=api_key,
            request_timeout=TIMEOUT,
            max_retries=0,
        )

    def create_index(self, name: str, mapping: Mapping[str, Any]) -> None:
        self._client.indices.create(index=name, mappings=mapping)

    def bulk(self, operations: Sequence[Mapping[str, Any]]) -> Any:
        return self._client.bulk(operations=operations)

    def error_from(self, error: Exception) -> Union[None, Unavailable, Rejected]:
        failure = None
        if isinstance(error, self._errors.ApiError):
            failure = error_for(error.meta.status, error, error.meta.headers)
        if failure is None and isinstance(
            error, (self._errors.TransportError, self._errors.ApiError)
        ):
            failure = Unavailable(str(error))
        return failure
