"""The daemon at the other end of the pipe: it keeps metrics in a spool and delivers them.

It needs Python 3.9. Its text keeps to what Python 2 can parse, as all modules are compiled when
the package is installed.
"""
