"""What the kernel writes about memory, as numbers: proc(5) and psi(7). A line that is broken is left out."""

from __future__ import annotations

from contextlib import suppress


def parse_sizes(text: str) -> dict[str, int]:
    """Bytes by name, of /proc/meminfo or /proc/PID/status: `MemTotal:  24683748 kB`."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words[1:] == ["kB"] and words[0].isdecimal():
            found[name] = int(words[0]) * 1024
    return found


def parse_counts(text: str) -> dict[str, int]:
    """Counts by name, of /proc/vmstat: `pswpin 17`."""
    pairs = (line.split() for line in text.splitlines())
    return {words[0]: int(words[1]) for words in pairs if len(words) == 2 and words[1].isdecimal()}


def parse_pressure(text: str) -> dict[str, float]:
    """% of the last ten seconds by kind, of a file of PSI: `some avg10=0.12 avg60=… total=…` and `full …`."""
    shares = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" avg10=")
        with suppress(ValueError, IndexError):
            share = float(rest.split()[0])
            if 0 <= share <= 100:
                shares[kind] = share
    return shares
