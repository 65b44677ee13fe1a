"""Fetches the captures of Instruct-NeRF2NeRF (Haque et al. 2023), which suites/real.yaml edits.

    python data_scripts/get_in2n_data.py --out data/in2n
    pds bench --suite suites/real.yaml --methods nothing pds-edit pnr-edit

They lie in a folder of its authors' at Google Drive, several gigabytes of photographs; what is there already is not
fetched again. Their terms are their authors', and none of them is part of this package.
"""

import shutil
from pathlib import Path

import gdown
import tyro

URL = "https://drive.google.com/drive/folders/1v4MLNoSwxvSlWb26xvjxeoHpgjhi_s-s"
"""From the authors, in issue 2 of ayaanzhaque/instruct-nerf2nerf."""


def main(out: Path = Path("data/in2n")) -> None:
    """Fetch all of them, unpack what is packed, and say which captures are there."""
    gdown.download_folder(URL, output=str(out), resume=True)
    for archive in sorted(out.rglob("*.zip")):
        if not archive.with_suffix("").exists():
            shutil.unpack_archive(archive, archive.parent)
    captures = sorted(str(path.parent) for path in out.rglob("transforms.json"))
    if not captures:
        raise SystemExit(f"No transforms.json came to {out}: look at {URL} in a browser, and put its folders there.")
    print("\n".join(captures))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
