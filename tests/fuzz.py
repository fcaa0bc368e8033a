"""A coverage-guided campaign over the words and the records, with atheris.

python tests/fuzz.py [FOLDER] -max_total_time=1800; needs pip install atheris. What it finds
becomes a case of the tables in test_words.py and test_records.py.
"""

import os
import sys

import atheris

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

with atheris.instrument_imports():
    import json

    from benchmarkai import metrics, records, words


def found_by(data, size):
    """Return the lines published and the lines refused when data comes in blocks of a size."""
    reader = records.Records()
    found = []
    for start in range(0, len(data), size):
        found += reader.feed(data[start : start + size])
    found += reader.end()
    published, refused = [], []
    for line, pairs, problem in found:
        if isinstance(pairs, str):
            published += [(line + n, [text]) for n, text in enumerate(pairs.splitlines(True))]
            continue
        try:
            if problem:
                raise ValueError(problem)
            published.append((line, metrics.lines(pairs, 4096)))
        except (TypeError, ValueError) as error:
            refused.append((line, str(error)))
    return published, refused


def one_input(data):
    if not data:
        return
    size, data = data[0] + 1, data[1:]
    published, refused = found_by(data, size)
    # Where the blocks end, and whether many lines are taken at once, makes no difference.
    assert (published, refused) == found_by(data, 1 << 16)
    for _, texts in published:
        for text in texts:
            assert text.endswith("}\n") and len(text) <= 4096
            parsed = json.loads(text, object_pairs_hook=list)
            assert parsed and all(value - value == 0 for _, value in parsed)
            assert len(dict(parsed)) == len(parsed)
    for _, message in refused:
        assert message and "\n" not in message and len(message) < 1000, message
    # A good record after whatever came is found.
    published, _ = found_by(data + b'\n{"good": 1}\n', size)
    assert published[-1][1] == ['{"good": 1}\n']
    try:
        words.parse_words(data.decode("utf-8").split("\0"))
    except ValueError:
        pass


atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
