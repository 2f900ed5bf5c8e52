"""Runs every test against a server: `run.py --server http://127.0.0.1:7400`. Exits 0 only if everything held."""

import argparse
import os
import pathlib
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="where the server listens, started with its default configuration")
    parser.add_argument("rest", nargs="*", help="arguments for pytest, after --")
    arguments = parser.parse_args()
    os.environ["KITH_SERVER"] = arguments.server
    import pytest

    return pytest.main([str(pathlib.Path(__file__).parent), "-p", "no:cacheprovider", "-ra", *arguments.rest])


if __name__ == "__main__":
    sys.exit(main())
