"""A workspace of W&B for a study: its runs, and their quality over depth and width.

Of the package wandb-workspaces this uses what can be built without a login; `saved` needs one.
"""

from pathlib import Path
from typing import Any

from space.files import write_atomically

PACKAGE, EXTRA = "wandb_workspaces", "wandb"
"""Optional, and what brings it."""
ADDRESS = "workspace.txt"
"""Where the address of a study's workspace is kept, so that each start renews the same one."""
SIZES = {
    "Depth against width": "architecture.num_hidden_layers",
    "Width": "architecture.hidden_size",
}
"""Titles of panels, and the setting of a run that is their horizontal axis."""


def workspace(entity: str, project: str, study: str, metric: str, plot: str) -> Any:
    """The workspace of the runs of a study: `metric` over layers and over width, curves against
    tokens, and the figure and table that the study's own run has under the name `plot`."""
    import wandb_workspaces.reports.v2.interface as panels
    import wandb_workspaces.workspaces as workspaces

    quality = panels.SummaryMetric(metric)
    over: list[Any] = [
        panels.ScatterPlot(title=title, x=panels.Config(size), y=quality)
        for title, size in SIZES.items()
    ]
    curves: list[Any] = [
        panels.LinePlot(title=title, x="tokens", y=[name])
        for title, name in (("Training loss", "train_loss"), ("Validation loss", "val_loss"))
    ]
    sections = [
        workspaces.Section(name=f"{metric} at equal budget", panels=over, is_open=True),
        workspaces.Section(name="Learning curves", panels=curves, is_open=True),
        workspaces.Section(
            name="Figure", panels=[panels.MediaBrowser(media_keys=[plot])], is_open=True
        ),
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=study,
        sections=sections,
        runset_settings=workspaces.RunsetSettings(filters=f"Group == {study!r}"),
        auto_generate_panels=False,
    )


def saved(new: Any, folder: Path) -> str:
    """The address of the workspace on W&B's server, where it replaces the one that an earlier start
    of the study left."""
    import wandb_workspaces.workspaces as workspaces

    known = folder / ADDRESS
    if known.is_file():
        old = workspaces.Workspace.from_url(known.read_text().strip())
        old.sections, old.runset_settings = new.sections, new.runset_settings
        new = old
    address = str(new.save().url)
    write_atomically(known, f"{address}\n")
    return address
