from benchmarkai.daemon.backends import BackendBase as Backend
