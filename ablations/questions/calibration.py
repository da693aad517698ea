"""How often do equal arms get a verdict? One shape many times, with different initial weights."""

from ablations.questions import Asked
from ablations.questions.arms import FILES, Arms, are_equal
from ablations.table import Table


class Calibration(Arms):
    """A table whose arms are equal: any verdict is a false one."""

    asks = "Do equal arms get false verdicts, and do their runs agree with the model?"
    takes = "one panel of arms that differ in init_shift alone"
    leaves = (
        *FILES,
        "calibration.md",
        *(f"{name}.csv" for name in ("calibration", "checks", "spread")),
    )
    view = "calibration"
    example = """
caption: One shape three times, initial weights apart.
budget: 100k
seeds: 2
question: calibration
proxy:
  - name: ""
    baseline: a
    base: {num_blocks: 2}
    arms:
      a: {init_shift: 0}
      b: {init_shift: 100}
      c: {init_shift: 200}
"""

    def table(self, asked: Asked) -> Table:
        made = asked.table(asked.panels)
        if not are_equal(made):
            raise ValueError(
                f"arms of table {asked.name} must be equal but for init_shift, to calibrate with, "
                "but are not; leave out question: calibration"
            )
        return made


QUESTION = Calibration()
