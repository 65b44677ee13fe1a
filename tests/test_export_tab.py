"""The viewer's export tab names the command for every format of splats."""

import shlex
from pathlib import Path
from types import SimpleNamespace

from nerfstudio.viewer import export_panel

from pds_nerfstudio.export_tab import extend


class Handle:
    """An element of a page."""

    def __init__(self, value=None):
        self.value, self.hooks = value, []

    def on_click(self, hook):
        self.hooks.append(hook)


class Gui:
    """What viser offers to make elements, keeping them by their labels."""

    def __init__(self):
        self.made: dict[str, Handle] = {}

    def add_markdown(self, text):
        """Only a text."""

    def _add(self, label, *_, initial_value=None, **__):
        self.made[label] = Handle(initial_value)
        return self.made[label]

    add_text = add_button = add_dropdown = _add


def test_the_export_tab_names_the_command_for_other_formats_of_splats(monkeypatch):
    said = []
    monkeypatch.setattr(export_panel, "show_command_modal", lambda client, what, command: said.append(command))
    extend()
    gui = Gui()
    export_panel.populate_splat_tab(SimpleNamespace(gui=gui), None, Path("outputs/a run/config.yml"), True)
    gui.made["Output Directory"].value, gui.made["Other formats"].value = "to here", "glb"
    (show,) = gui.made["Generate Command (other formats)"].hooks
    show(SimpleNamespace(client="page"))
    asked = ["pds", "render", "outputs/a run", "--paths", "--no-held-out", "--export", "--formats", "glb"]
    assert [shlex.split(command) for command in said] == [[*asked, "--out", "to here"]]
    made = len(gui.made)
    export_panel.populate_splat_tab(SimpleNamespace(gui=gui), None, Path("config.yml"), False)
    assert len(gui.made) == made  # a NeRF has none
