"""`python -m benchmarks`: all that is measured of training, one after the other.

`--save` leaves tables and pictures in `benchmarks/results/`. Half an hour on two cores, more where
the peers' compiled graphs are not in torch's cache yet.
"""

from benchmarks import fidelity, proxy, scaling, trial
from benchmarks.show import parser


def main() -> None:
    """Print, and save where that is asked for."""
    chosen = parser(__doc__).parse_args()
    for benchmark in (proxy, scaling, trial, fidelity):
        benchmark.main(["--save"] if chosen.save else [])


if __name__ == "__main__":
    main()
