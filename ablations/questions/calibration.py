"""How often do equal arms get a verdict? One shape many times, apart in its initial weights."""

from ablations.questions import Asked
from ablations.questions.arms import FILES, Arms, are_equal
from ablations.table import Table


class Calibration(Arms):
    """A table whose arms are equal: any verdict is a false one."""

    asks = "Do equal arms get verdicts, and do their runs bear out the model?"
    takes = "one panel of arms that differ in init_shift alone"
    leaves = (
        *FILES,
        "calibration.md",
        *(f"{name}.csv" for name in ("calibration", "checks", "spread")),
    )
    view = "calibration"

    def table(self, asked: Asked) -> Table:
        made = asked.table(asked.panels, question="calibration")
        if not are_equal(made):
            raise ValueError(
                f"arms of table {asked.name} must be equal but for init_shift, to calibrate with, "
                "but are not; leave out question: calibration"
            )
        return made


QUESTION = Calibration()
