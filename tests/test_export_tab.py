"""The viewer's export tab names the command for every format of splats."""

from pathlib import Path
from types import SimpleNamespace

from nerfstudio.viewer import export_panel

from pds_nerfstudio.export_tab import extend


def test_the_export_tab_names_the_command_for_other_formats_of_splats(monkeypatch):
    buttons, said = [], []

    class Handle:
        value = "spz"

        def on_click(self, hook):
            buttons.append(hook)

    gui = SimpleNamespace(
        **dict.fromkeys(("add_markdown", "add_text", "add_button", "add_dropdown"), lambda *_, **__: Handle())
    )
    monkeypatch.setattr(export_panel, "show_command_modal", lambda client, what, command: said.append(command))
    extend()
    server = SimpleNamespace(gui=gui)
    export_panel.populate_splat_tab(server, None, Path("outputs/a run/config.yml"), True)
    buttons[-1](SimpleNamespace(client="page"))
    assert said == ["pds render 'outputs/a run' --paths --no-held-out --export --formats spz"]
    before = len(buttons)
    export_panel.populate_splat_tab(server, None, Path("config.yml"), False)
    assert len(buttons) == before  # a NeRF has none
