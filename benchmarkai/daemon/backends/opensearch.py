from benchmarkai.daemon.backends import TIMEOUT, Unavailable, check_answer
from benchmarkai.daemon.backends.bulk import BulkBackend


class Backend(BulkBackend):
    """Write to OpenSearch.

    Each metric is a document. Its fields are @timestamp, name, value and labels. The index is
    made, with their types, unless there is one.

    \b
      $ bai-daemon opensearch --url http://localhost:9200 --index job-metrics
      $ BAI_DAEMON_PASSWORD=... bai-daemon opensearch --url https://os.example.com --user me \\
            --label run=42 -- ./my_benchmark.sh
    """

    def __init__(self, url, index, user, password):
        import opensearchpy

        super(Backend, self).__init__(index)
        self._errors = opensearchpy.exceptions
        self._client = opensearchpy.OpenSearch(
            url,
            http_auth=(user, password or "") if user else None,
            timeout=TIMEOUT,
            max_retries=0,
        )

    def create_index(self, name, mapping):
        try:
            self._client.indices.create(index=name, body={"mappings": mapping})
        except self._errors.RequestError as error:
            if error.error != "resource_already_exists_exception":
                raise Unavailable("cannot make the index %r: %s" % (name, error))

    def bulk(self, operations):
        return self._client.bulk(body=operations)

    def failure(self, error):
        if isinstance(error, self._errors.TransportError) and isinstance(error.status_code, int):
            try:
                check_answer(error.status_code, error)
            except Exception as failure:
                return failure
        if isinstance(error, self._errors.OpenSearchException):
            return Unavailable(str(error))
        return None
