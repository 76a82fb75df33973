"""docs/performance.md and the README's table of figures, made of the files in bench/results alone.

    python -m bench.page             # writes docs/performance.md
    python -m bench.page --readme    # writes the README's table between its two marks

Nothing is measured here, and no figure is written by hand: without result files the page has none. `engines.py` and
`service.py` read the files, `stored.py` knows which there may be; one that has no reader is named without figures.
"""
