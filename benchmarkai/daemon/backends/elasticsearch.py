from benchmarkai.daemon.backends import TIMEOUT, Unavailable, check_answer, secret
from benchmarkai.daemon.backends.bulk import BulkBackend


class Backend(BulkBackend):
    """Write to Elasticsearch 8 or newer.

    Each metric is a document. Its fields are @timestamp, name, value and labels. The index is
    made, with their types, unless there is one.

    \b
      $ bai-daemon elasticsearch --url http://localhost:9200 --index job-metrics
      $ BAI_DAEMON_API_KEY=... bai-daemon elasticsearch --url https://es.example.com \\
            --label run=42 -- ./my_benchmark.sh
    """

    options = BulkBackend.options + [secret("--api-key", "an API key, instead of a user")]

    def __init__(self, url, index, user, password, api_key):
        import elasticsearch

        super(Backend, self).__init__(index)
        self._errors = elasticsearch
        self._client = elasticsearch.Elasticsearch(
            url,
            basic_auth=(user, password or "") if user else None,
            api_key=api_key,
            request_timeout=TIMEOUT,
            max_retries=0,
        )

    def create_index(self, name, mapping):
        try:
            self._client.indices.create(index=name, mappings=mapping)
        except self._errors.BadRequestError as error:
            if error.error != "resource_already_exists_exception":
                raise Unavailable("cannot make the index %r: %s" % (name, error))

    def bulk(self, operations):
        return self._client.bulk(operations=operations)

    def failure(self, error):
        if isinstance(error, self._errors.ApiError):
            try:
                check_answer(error.meta.status, error, error.meta.headers)
            except Exception as failure:
                return failure
        if isinstance(error, (self._errors.TransportError, self._errors.ApiError)):
            return Unavailable(str(error))
        return None
