"""A coverage-guided fuzzer for the arguments and the records, with atheris.

Run it in the checkout: python -m tests.command.fuzz [CORPUS] -max_total_time=1800. It needs
pip install atheris. What it finds becomes a case in test_words.py, test_records.py or
test_fastpath.py.
"""

import sys

import atheris

with atheris.instrument_imports():
    import json

    from benchmarkai import metrics
    from benchmarkai.command import records, words


def found_by(data, size):
    """Return what is published and what is rejected if the data arrives in blocks of a size."""
    reader = records.RecordReader()
    found = []
    for start in range(0, len(data), size):
        found += reader.feed(data[start : start + size])
    found += reader.end()
    published, rejected = [], []
    for each in found:
        if isinstance(each, records.EncodedLines):
            lines = enumerate(each.text.splitlines(True), each.line)
            published += [(line, [text]) for line, text in lines]
            continue
        try:
            if isinstance(each, records.Problem):
                raise ValueError(each.message)
            published.append((each.line, metrics.encode(each.pairs, 4096)))
        except (TypeError, ValueError) as error:
            rejected.append((each.line, str(error)))
    return published, rejected


def one_input(data):
    if not data:
        return
    size, data = data[0] + 1, data[1:]
    published, rejected = found_by(data, size)
    # The result depends neither on where blocks end nor on how many lines arrive at once.
    assert (published, rejected) == found_by(data, 1 << 16)
    for _, texts in published:
        for text in texts:
            assert text.endswith("}\n") and len(text) <= 4096
            parsed = json.loads(text, object_pairs_hook=list)
            assert parsed and all(value - value == 0 for _, value in parsed)
            assert len(dict(parsed)) == len(parsed)
    for _, message in rejected:
        assert message and "\n" not in message and len(message) < 1000, message
    # A good record is found after any data.
    published, _ = found_by(data + b'\n{"good": 1}\n', size)
    assert published[-1][1] == ['{"good": 1}\n']
    try:
        words.parse_words(data.decode("utf-8").split("\0"))
    except ValueError:
        pass


atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
