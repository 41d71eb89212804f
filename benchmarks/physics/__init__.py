"""The simulator against theory, one file per claim, each printed with its error bar.

`python -m benchmarks.physics` runs all of them, `python -m benchmarks.physics escape` one; `--quick` takes smaller
samples, `--json FILE` keeps the rows. A claim's file has `TITLE`, a sentence, and `rows(quick)`.
"""
