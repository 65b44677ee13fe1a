"""What mkdocs is told beyond mkdocs.yml: pages from outside of docs/, pages made of the code, formulas as MathML."""

import html
import re

import latex2mathml.converter
import reference
from links import AS_FILES, PAGES, ROOT, for_site, links, repository_path, site_path
from mkdocs.structure.files import File

EXAMPLES = ROOT / "examples"
NO_PAGE = ("docs/README.md", "examples")
"""Index and folder for readers of the repository; the site has its navigation for the one, a page for the other."""


def on_config(config):
    """Add the pages of the reference to the navigation."""
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] += [{page.title: page.path} for page in reference.pages()]
    return config


def on_files(files, config):
    """Add what lies outside of docs/, and what is made of the code."""
    for source, place in PAGES.items():
        if source not in NO_PAGE:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for path in sorted(EXAMPLES.glob("*.py")):
        page = f"# {path.stem.replace('_', ' ').capitalize()}\n\n```python\n{path.read_text(encoding='utf8')}```\n"
        files.append(File.generated(config, f"examples/{path.stem}.md", content=page))
    files.append(File.generated(config, "reference/index.md", content=reference.index()))
    for page in reference.pages():
        files.append(File.generated(config, page.path, content=page.markdown))
    for path in sorted(_linked_files()):
        files.append(File.generated(config, str(site_path(path)), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead the links of a page to where the site has what they mean."""
    source = repository_source(page.file.src_uri)
    return for_site(markdown, source, page.file.src_uri) if source else markdown


def on_page_content(content, page, config, files):
    """Draw the formulas, which arithmatex has left between \\[ and \\]."""
    return re.sub(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', _as_mathml, content, flags=re.S)


def repository_source(place: str) -> str | None:
    """The path in the repository of a page of the site; None where it is made of the code."""
    for source, known in PAGES.items():
        if known == place and source not in NO_PAGE:
            return source
    return f"docs/{place}" if (ROOT / "docs" / place).is_file() else None


def _linked_files() -> set[str]:
    """What pages link to that is copied as it is, and does not lie in docs/."""
    pages = [ROOT / page for page in PAGES if page.endswith(".md")] + sorted((ROOT / "docs").rglob("*.md"))
    found = set()
    for page in pages:
        own = page.relative_to(ROOT).as_posix()
        found |= {repository_path(own, target)[0] for target in links(page.read_text(encoding="utf8"))}
    return {
        path for path in found if path.endswith(AS_FILES) and not path.startswith("docs/") and (ROOT / path).is_file()
    }


def _as_mathml(match: re.Match) -> str:
    display = "block" if match[1] == "div" else "inline"
    return latex2mathml.converter.convert(html.unescape(match[2]), display=display)
