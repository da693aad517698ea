"""How often are planted effects found, and do equal arms get false verdicts? By simulation."""

from ablations.questions import Asked, Question
from ablations.table import Table


class Untrained(Question):
    """A table whose numbers come from elsewhere than from cells of its own."""

    standalone = True
    trains = False

    def table(self, asked: Asked) -> Table:
        raise NotImplementedError("a table that trains nothing has no cells")


class Power(Untrained):
    """Simulated error rates and power of the rule that gives verdicts."""

    asks = "How often planted effects are found and equal arms get a verdict; nothing is trained."
    takes = "nothing"
    leaves = ("table.md", "table.csv", "unequal.csv", "ways.csv", "extended.csv")
    view = "power"


QUESTION = Power()
