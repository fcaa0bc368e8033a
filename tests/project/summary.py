"""Sum up the JUnit files of several environments: what passed, failed, and was not tested at all.

bin/test runs it at its end, as python tests/project/summary.py ENVIRONMENT.xml ...
"""

import collections
import os
import re
import sys
from xml.etree import ElementTree


def name_of(test):
    return ".".join(part for part in (test.get("classname"), test.get("name")) if part)


def reason_of(skipped):
    # Where the import of a whole file is skipped, the text is the repr of a tuple.
    found = re.search(r"Skipped: (.*)['\"]\)$", skipped.text or "")
    return found.group(1) if found else skipped.get("message")


def summary(paths):
    passed, failed, skipped, ran = {}, {}, {}, set()
    for path in paths:
        environment = os.path.splitext(os.path.basename(path))[0]
        try:
            tests = ElementTree.parse(path).iter("testcase")
        except ElementTree.ParseError:
            failed[os.path.basename(path) + " was cut off"] = [environment]
            continue
        passed[environment] = 0
        for test in tests:
            name = name_of(test)
            if test.find("skipped") is not None:
                skipped[name] = reason_of(test.find("skipped"))
                continue
            # Also the file of the test, which another environment may skip as a whole.
            ran.update((name, test.get("classname")))
            if test.find("failure") is not None or test.find("error") is not None:
                failed.setdefault(name, []).append(environment)
            else:
                passed[environment] += 1
    yield "passed: " + ", ".join("%s %d" % item for item in passed.items())
    for name, environments in failed.items():
        yield "failed: %s (%s)" % (name, ", ".join(environments))
    reasons = collections.Counter(skipped[name] for name in skipped if name not in ran)
    for reason, count in reasons.most_common():
        yield "skipped everywhere: %d, %s" % (count, reason)


if __name__ == "__main__":
    paths = [path for path in sys.argv[1:] if os.path.exists(path)]
    if paths:
        print("\n".join(summary(paths)))
