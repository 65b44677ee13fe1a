"""What the viewer's export tab offers beside nerfstudio's own: splats as .spz, .splat and .glb.

nerfstudio's tab makes commands to be copied, and its own write Gaussians as .ply alone. This adds one for `pds render`.
"""

import functools
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import patch

from nerfstudio.viewer import export_panel

_populate = export_panel.populate_splat_tab


def extend() -> None:
    """Put the addition in place. Safe to call again."""
    export_panel.populate_splat_tab = populate_splat_tab


@functools.wraps(_populate)
def populate_splat_tab(server: Any, control_panel: Any, config_path: Path, viewing_gsplat: bool) -> None:
    """nerfstudio's tab, and for a run of splats the other formats and a button behind it."""
    from pds_nerfstudio.scenes.formats.splat_files import WRITERS

    fields = []
    add_text = server.gui.add_text

    def add_and_keep(*args: Any, **settings: Any) -> Any:
        fields.append(add_text(*args, **settings))
        return fields[-1]

    with patch.object(server.gui, "add_text", add_and_keep):
        _populate(server, control_panel, config_path, viewing_gsplat)
    if not viewing_gsplat:
        return
    first, hint = next(iter(WRITERS)), "pds render writes them into the folder export of the output directory."
    chosen = server.gui.add_dropdown("Other formats", tuple(WRITERS), initial_value=first, hint=hint)
    run = str(Path(config_path).parent)

    def show(event: Any) -> None:
        command = ["pds", "render", run, "--paths", "--no-held-out", "--export", "--formats", chosen.value]
        for field in fields:  # one: the output directory
            command += ["--out", field.value]
        export_panel.show_command_modal(event.client, "splat", shlex.join(command))

    server.gui.add_button("Generate Command (other formats)").on_click(show)
