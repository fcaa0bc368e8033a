import glob
import io
import os
import re
import sys

from setuptools import setup

# isort: split
from distutils.command.build_scripts import build_scripts  # setuptools has it for Python 3.12

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = "https://github.com/MXNetEdge/benchmark-ai"

# What is between the quotes are commands for sh, and a string for Python. The python next to the
# script comes first: pip may keep the wheel, and install it in another environment.
START_WITH_SH = """\
/bin/sh
''':'
set -- "$(readlink -f "$0")" "$@"
[ -x "${1%%/*}/%(name)s" ] && exec "${1%%/*}/%(name)s" "$@"
exec "%(path)s" "$@"
' '''"""


def read(*path):
    with io.open(os.path.join(HERE, *path), encoding="utf-8") as file:
        return file.read()


def read_description():
    """Return the README with links to the repository, because PyPI has none of its files."""
    text = re.sub(r"(!\[.*\]\()(?!https?:)", r"\1%s/raw/HEAD/" % SOURCE, read("README.md"))
    return re.sub(r"(\]\()(?!https?:)", r"\1%s/blob/HEAD/" % SOURCE, text)


class BuildScripts(build_scripts):
    def run(self):
        path = getattr(os, "fsencode", str)(sys.executable)
        # A system may cut #!, the path and \n after 127 bytes, and ends the path at a space. pip
        # minds that in what it writes for entry points, not in scripts.
        if len(path) > 124 or len(path.split()) > 1:
            name = os.path.basename(sys.executable)
            self.executable = START_WITH_SH % {"name": name, "path": sys.executable}
        build_scripts.run(self)


setup(
    name="benchmarkai-client-lib",
    version=re.search(r'__version__ = "(.+)"', read("benchmarkai", "__init__.py")).group(1),
    description="A client library for posting metrics that uses the Benchmark AI framework.",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    author="Edison Gustavo Muenz",
    author_email="edisongustavo@gmail.com",
    url=SOURCE,
    project_urls={
        "Source": SOURCE,
        "Changelog": SOURCE + "/blob/HEAD/CHANGELOG.md",
        "Issues": SOURCE + "/issues",
    },
    license="Apache-2.0",
    packages=[
        "benchmarkai",
        "benchmarkai.command",
        "benchmarkai.daemon",
        "benchmarkai.daemon.backends",
    ],
    package_data={"benchmarkai": ["py.typed"]},
    # A script, not an entry point: what pip up to 25 writes for one imports re, which takes
    # half as long as all of Python's own start.
    scripts=["bin/bai-emit", "bin/bai-daemon"],
    # man finds them there if ../bin is on the PATH.
    data_files=[("share/man/man1", sorted(glob.glob("docs/man/*.1")))],
    cmdclass={"build_scripts": BuildScripts},
    python_requires=re.search(r'requires-python = "(.+)"', read("pyproject.toml")).group(1),
    install_requires=["click>=7.0"],
    # The backends of the daemon; stdout needs none. The daemon needs Python 3.9.
    extras_require={
        "elasticsearch": ["urllib3>=1.26"],
        "opensearch": ["urllib3>=1.26"],
        "cloudwatch": ["boto3"],
        "prometheus": ["prometheus-client>=0.14", "urllib3>=1.26"],
        "influxdb": ["urllib3>=1.26"],
        # Partial success came with version 1.19.
        "otlp": ["opentelemetry-proto>=1.19", "urllib3>=1.26"],
        "kafka": ["confluent-kafka>=2.10"],
    },
    options={"bdist_wheel": {"python_tag": "py2.py3"}},
    zip_safe=False,
    classifiers=[
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: Unix",
        "Programming Language :: Python",
        "Programming Language :: Python :: 2",
        "Programming Language :: Python :: 2.7",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.4",
        "Programming Language :: Python :: 3.5",
        "Programming Language :: Python :: 3.6",
        "Programming Language :: Python :: 3.7",
        "Programming Language :: Python :: 3.8",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Benchmark",
        "Topic :: System :: Monitoring",
        "Typing :: Typed",
    ],
)
