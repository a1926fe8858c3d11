"""`python -m benchmarks.drain [JOBS [REPETITIONS]]`: the case ``drain`` alone, in short."""

import sys

from benchmarks.__main__ import main

NAMES = ("--jobs", "--repetitions")

if __name__ == "__main__":
    numbers = [word for word in sys.argv[1:] if word.isdigit()]
    options = [word for word in sys.argv[1:] if not word.isdigit()]
    named = [word for pair in zip(NAMES, numbers, strict=False) for word in pair]
    main(["drain", *named, *options], prog_name="python -m benchmarks")
