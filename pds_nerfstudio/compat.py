"""What today's torch and nerfstudio need to work together.

Each entry is one function that names the upstream issue it answers and says when it can go. `apply` runs them all; it
is called at the import of `pds_nerfstudio.methods`, which every `ns-*` command imports, so runs of the built-in
nerfacto and splatfacto profit too. Nothing here is specific to editing.
"""

import functools
import http
import importlib
import inspect
import ipaddress
import math
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor

from pds_nerfstudio.checkpoints import allow_numpy_scalars_in_checkpoints
from pds_nerfstudio.children import end_with_parent
from pds_nerfstudio.deferred_lpips import deferred_lpips, lpips_weights_on_disk
from pds_nerfstudio.help_texts import join_lines
from pds_nerfstudio.quiet import leave_out_remarks, silence_libraries

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
SERVERS = ("websockets", "websockets.server", "websockets.legacy.server", "websockets.asyncio.server")
"""Modules under which a release of websockets offers `serve`."""

shared_hosts: set[str] = set()
"""Names under which this process was made public on request, by viser's share URL."""


def apply() -> None:
    """Put every entry below in place. Safe to call again, and cheap: it imports nothing that nerfstudio has not."""
    silence_libraries()
    leave_out_remarks()
    join_lines()
    allow_numpy_scalars_in_checkpoints()
    build_models_without_lpips_weights()
    use_packaged_ffmpeg()
    list_external_methods_quickly()
    listen_on_loopback()
    guard_the_viewer()
    end_data_workers_with_their_parent()
    look_up_hash_tables_quickly()
    contract_space_quickly()
    keep_photographs_without_a_gpu()


def build_models_without_lpips_weights() -> None:
    """Build nerfstudio models on a machine that has no AlexNet weights and no network.

    Eight models construct LPIPS in `populate_modules`, which downloads AlexNet: without network even `ns-train
    nerfacto` and `ns-export` end in a URL error. Where the file is not on disk, a stand-in takes its place that tries
    to load the metric when it is first asked for. Can go when nerfstudio builds its metrics on first use.
    """
    from nerfstudio.models.base_model import Model

    build = Model.__init__
    if getattr(build, "_lpips_deferred", False):
        return

    @functools.wraps(build)
    def __init__(self, *args, **kwargs):
        if lpips_weights_on_disk():
            build(self, *args, **kwargs)
        else:
            with deferred_lpips():
                build(self, *args, **kwargs)

    setattr(__init__, "_lpips_deferred", True)  # noqa: B010
    Model.__init__ = __init__


def use_packaged_ffmpeg() -> None:
    """Let `ns-render` write videos where no ffmpeg is on the path but the one that comes with imageio-ffmpeg is there.

    `ns-render` asks for a system-wide ffmpeg and exits without it, although it only calls it through mediapy, which can
    be told any path. Can go when nerfstudio leaves the search to mediapy.
    """
    from nerfstudio.utils import install_checks

    check = install_checks.check_ffmpeg_installed
    if getattr(check, "_packaged", False):
        return

    @functools.wraps(check)
    def check_ffmpeg_installed():
        if shutil.which("ffmpeg") is None:
            try:
                import imageio_ffmpeg
                import mediapy

                mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
                return
            except (ImportError, RuntimeError):  # the package is missing, or was built without a binary
                pass
        check()

    setattr(check_ffmpeg_installed, "_packaged", True)  # noqa: B010
    install_checks.check_ffmpeg_installed = check_ffmpeg_installed


def list_external_methods_quickly() -> None:
    """Let every `ns-*` command start seconds sooner.

    For each of the methods that it can offer to install, nerfstudio asks `inspect.stack()` for a caller's name, which
    looks through all modules for every frame of it: 4.5 s of processor time, or 12 where more is imported. The names
    alone cost next to nothing. Can go when nerfstudio asks for them alone.
    """
    module: Any = importlib.import_module("nerfstudio.configs.external_methods")
    if module.inspect is inspect:
        module.inspect = SimpleNamespace(**{**vars(inspect), "stack": callers})


def callers() -> list[SimpleNamespace]:
    """The functions that are running, from the one that asks outwards, by name: what is read of `inspect.stack()`."""
    frames = traceback.walk_stack(sys._getframe(1))
    return [SimpleNamespace(frame=frame, lineno=line, function=frame.f_code.co_name) for frame, line in frames]


def listen_on_loopback() -> None:
    """Let viewers listen on this machine alone, unless `--viewer.websocket-host` names another address.

    nerfstudio's default is 0.0.0.0: whoever reaches the port can steer the run. Configurations that were built with
    that default are changed as well. Can go when nerfstudio's default is a loopback address.
    """
    from nerfstudio.configs.base_config import ViewerConfig

    name = "websocket_host"
    field = ViewerConfig.__dataclass_fields__[name]
    if field.default == EVERYWHERE:
        build = ViewerConfig.__init__
        with_default = [p for p in inspect.signature(build).parameters.values() if p.default is not p.empty]
        build.__defaults__ = tuple(LOOPBACK if p.name == name else p.default for p in with_default)
        field.default = ViewerConfig.websocket_host = LOOPBACK
    # While this package's methods are discovered, the module is there but not yet finished.
    built_in = getattr(sys.modules.get("nerfstudio.configs.method_configs"), "method_configs", {})
    for viewer in (getattr(config, "viewer", None) for config in built_in.values()):
        if viewer is not None and viewer.websocket_host == EVERYWHERE:
            viewer.websocket_host = LOOPBACK


def guard_the_viewer() -> None:
    """Refuse what no page of the viewer asks for: files outside its own, and pages of other sites.

    viser 0.2.7 answers `GET /../../etc/passwd` with that file, and accepts a websocket from any site's page, which
    can then steer the edit. Every release of viser serves through websockets' `serve`, so requests are checked there.
    Its Markdown also reads pictures from this machine's disk, by paths that a page may have typed. Can go when viser
    checks paths, the Origin and the Host itself.
    """
    try:
        import viser
        from viser.infra import _infra
    except ImportError:
        return
    for holder in (*map(_module_or_none, SERVERS), _infra):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the older of websockets' two servers
            serve = getattr(holder, "serve", None)
        if callable(serve) and not getattr(serve, "_guarded", False):
            setattr(holder, "serve", _guarded_serve(serve))  # noqa: B010
    handles: Any = _module_or_none("viser._gui_handles")
    if hasattr(handles, "_get_data_url"):
        handles._get_data_url = _no_local_picture
    share = viser.ViserServer.request_share_url
    if not getattr(share, "_guarded", False):

        @functools.wraps(share)
        def request_share_url(*args: Any, **kwargs: Any) -> str | None:
            url = share(*args, **kwargs)
            if url is not None:
                shared_hosts.add(urlsplit(url).hostname or "")
            return url

        setattr(request_share_url, "_guarded", True)  # noqa: B010
        viser.ViserServer.request_share_url = request_share_url


def _module_or_none(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _no_local_picture(url: str, image_root: Any = None) -> str:
    """A picture's address in the viewer's Markdown, as it is: never the content of a file of this machine."""
    return url


def _guarded_serve(serve: Callable[..., Any]) -> Callable[..., Any]:
    """websockets' `serve`, in whichever release, with viser's requests checked first; other servers are left alone."""

    @functools.wraps(serve)
    def guarded(handler: Any, host: Any = None, port: Any = None, **settings: Any) -> Any:
        if str(getattr(handler, "__module__", "")).partition(".")[0] != "viser":
            return serve(handler, host, port, **settings)
        if not is_loopback(host):
            _say_who_can_connect(host)
        answer = settings.get("process_request")

        async def check_first(*request: Any) -> Any:
            connection, asked = request if hasattr(request[1], "path") else (None, None)
            path, headers = request if asked is None else (asked.path, asked.headers)
            refusal = refused_request(path, headers.get_all("Host"), headers.get_all("Origin"), is_loopback(host))
            if refusal is not None:
                if connection is not None:
                    return connection.respond(http.HTTPStatus.FORBIDDEN, refusal)
                return http.HTTPStatus.FORBIDDEN, {"Content-Type": "text/plain"}, refusal.encode()
            result = answer(*request) if answer is not None else None
            return await result if inspect.isawaitable(result) else result

        return serve(handler, host, port, **(settings | {"process_request": check_first}))

    setattr(guarded, "_guarded", True)  # noqa: B010
    return guarded


def refused_request(path: str, hosts: list[str], origins: list[str], loopback: bool) -> str | None:
    """Why a request to the viewer is refused; None where it is not.

    Args:
        path: what is asked for, as it was sent.
        hosts, origins: all headers of those names; a program that is no browser sends no Origin.
        loopback: whether the server listens on this machine alone. Then it goes by a name of this machine alone too:
            another site's name may have been made to resolve to it (DNS rebinding).
    """
    segments = unquote(unquote(path.partition("?")[0])).replace("\\", "/").split("/")
    if ".." in segments or "\0" in path or "%00" in path:
        return "There is no such file."
    host = urlsplit(f"//{hosts[0]}") if len(hosts) == 1 else None
    if host is None or not host.hostname:
        return "The request names no host."
    if loopback and not (is_loopback(host.hostname) or host.hostname in shared_hosts):
        return f"This viewer is reached as localhost, not as {host.hostname}."
    if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins):
        return "A page of another site may not use this viewer."
    return None


def is_loopback(host: Any) -> bool:
    """Whether a host's name or address is this machine's own, reached from nowhere else."""
    name = str(host).strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _say_who_can_connect(host: Any) -> None:
    from nerfstudio.utils.rich_utils import CONSOLE

    CONSOLE.print(
        f"The viewer listens on {host}: whoever reaches its port there can see and steer this run. "
        "--viewer.websocket-host 127.0.0.1 and an ssh tunnel keep it to yourself.",
        style="yellow",
        markup=False,
        soft_wrap=True,
    )


def end_data_workers_with_their_parent() -> None:
    """Let the processes that prepare a NeRF's rays end when training was killed; by themselves they go on forever.

    Can go when nerfstudio's `DataProcessor` looks after its parent.
    """
    from nerfstudio.data.datamanagers import parallel_datamanager

    kind = getattr(parallel_datamanager, "DataProcessor", None)
    run = getattr(kind, "run", None)
    if kind is None or run is None or getattr(run, "_ends_with_parent", False):
        return

    @functools.wraps(run)
    def run_with_parent(self: Any) -> None:
        end_with_parent()
        run(self)

    setattr(run_with_parent, "_ends_with_parent", True)  # noqa: B010
    kind.run = run_with_parent


def look_up_hash_tables_quickly() -> None:
    """Let NeRFs without tiny-cuda-nn train in a fraction of the time (see `scenes.hash_encoding`).

    nerfstudio's torch implementation was meant to be gone over (nerfstudio #1200); on GPUs the backward pass of its
    indexing sorts every index (pytorch #171381). Can go when nerfstudio gathers and adds up as we do.
    """
    from nerfstudio.field_components.encodings import HashEncoding

    from pds_nerfstudio.scenes.hash_encoding import hash_encoding

    def pytorch_fwd(self, in_tensor):
        return hash_encoding(in_tensor, self.hash_table, self.scalings)

    HashEncoding.pytorch_fwd = pytorch_fwd


def contract_space_quickly() -> None:
    """Let NeRFs on CPUs contract unbounded space in a fifth of the time, to the same numbers.

    Of a few columns `torch.linalg.norm(ord=inf)` takes thirty times as long there as their largest absolute value. Can
    go when it does not any more; no issue of torch's or nerfstudio's is known to us.
    """
    from nerfstudio.field_components.spatial_distortions import SceneContraction

    contracted = SceneContraction.forward
    if hasattr(contracted, "__wrapped__"):
        return

    @functools.wraps(contracted)
    def forward(self, positions):
        if self.order != math.inf or not isinstance(positions, Tensor):
            return contracted(self, positions)
        size = positions.abs().amax(-1, keepdim=True)
        return torch.where(size < 1, positions, (2 - 1 / size) * (positions / size))

    SceneContraction.forward = forward


def keep_photographs_without_a_gpu() -> None:
    """Let splats be trained from more than 500 photographs, or with `cache_images` "cpu", where there is no GPU.

    nerfstudio then pins the photographs in memory, which torch refuses without a GPU to copy them to. Kept for the
    model's device instead, they stay where they are. Can go when nerfstudio asks for a GPU before it pins.
    """
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager

    load = FullImageDatamanager._load_images
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def load_images(self, split, cache_images_device):
        return load(self, split, cache_images_device if torch.cuda.is_available() else "gpu")

    FullImageDatamanager._load_images = load_images
