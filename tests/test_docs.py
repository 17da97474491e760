"""What README and the manual say is so: commands parse, snippets run, links lead somewhere, options exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import unicodedata
from pathlib import Path

import pytest
import torch
import typer
from conftest import ROOT
from PIL import Image

from stochx import runs, settings
from stochx.catalog import FAMILIES
from stochx.cli import app
from stochx.engine.network import weights
from stochx.errors import UsageError
from stochx.fewshot_networks import make_fewshot, save_fewshot
from stochx.models import ConvNet, Preparation

TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
MANUAL = {name: text for name, text in TEXTS.items() if name == "README.md" or name.startswith("docs/")}
FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```$", re.M | re.S)
INDENTED = re.compile(r"^    (stochx .*)$", re.M)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SHELLS = ("", "sh", "bash", "console", "yaml", "yml")
GROUP = typer.main.get_command(app)
FOREIGN = {"--pyargs", "--spec", "--nproc-per-node", "--include"}  # options of pytest, its plugin and torchrun


def prose(text):
    return FENCE.sub("", text)


def shell_lines(text):
    """The lines of a page that a shell is to run, and commands within its sentences."""
    blocks = [block for _, language, block in FENCE.findall(text) if language in SHELLS]
    blocks = map(_filled, blocks)
    lines = "\n".join([*blocks, *INDENTED.findall(prose(text))]).replace("\\\n", " ").splitlines()
    return [*lines, *(code for code in INLINE.findall(prose(text)) if re.match(r"stochx [a-z-]+ .", code))]


def _filled(block):
    """A workflow with its variables in their places, where it says what they stand for."""
    variables = dict(re.findall(r"^ *(\w+): \"?([^\n\"]*)", block, re.M))
    return re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), block)


def commands(line):
    """The words behind each `stochx` of a line, up to the end of its command."""
    if not re.search(r"\bstochx ", line):
        return
    lexer = shlex.shlex(re.sub(r"(^|\s)#\s.*", "", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = list(lexer)
    for start, word in enumerate(words):
        if word == "stochx" and (start == 0 or words[start - 1] in ("$", "-m", "|", "&&", ";", "run:", "-", "<(", "(")):
            rest = words[start + 1 :]
            yield rest[: next((i for i, word in enumerate(rest) if set(word) <= set("|&;<>()")), len(rest))]


LINES = [
    pytest.param(words, id=f"{page}:{' '.join(words)}")
    for page, text in MANUAL.items()
    for words in dict.fromkeys(tuple(words) for line in shell_lines(text) for words in commands(line))
]


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """A function that has the program read words, in a folder with the paths that they name: the settings it makes."""
    monkeypatch.chdir(tmp_path)
    made = []

    def execute(chosen, watch):
        made.append(chosen)
        raise typer.Exit

    monkeypatch.setattr(runs, "execute", execute)
    for name in settings.COMMANDS.values():
        monkeypatch.setattr(getattr(settings, name), "prepare", lambda self: None)
    entry = "@dataclass(frozen=True)\nclass Mine:\n    '''Mine.'''\n    entry: ClassVar = '{}'\n    k: int = 1\n"
    for file, name in (("my_method.py", "attributions:mine"), ("from_grey.py", "attributions:from-grey")):
        Path(file).write_text(entry.format(name).replace("k: int = 1", "k: int = 1\n    level: float = 0.5"))

    def read(words):
        for word in words:
            if re.fullmatch(r"[\w/-]+(/|\.toml|\.txt|\.zip|\.npz)|photos", word):
                place = Path(word)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text("ant\n" * (place.suffix == ".txt")) if place.suffix else place.mkdir(exist_ok=True)
        GROUP.main(list(words), prog_name="stochx", standalone_mode=False)
        return made[0] if made else None

    yield read
    for catalog in FAMILIES.values():
        for file in tmp_path.glob("*.py"):
            catalog.discard(file.resolve())


@pytest.mark.parametrize("words", LINES)
def test_a_documented_command_is_understood(words, typed):
    made = typed(words)
    assert words[0] not in settings.COMMANDS or made.command == words[0]


def test_a_mistyped_command_is_not_understood(typed):
    with pytest.raises(UsageError, match="unknown attack"):
        typed(("attack", "net.pt", "-a", "pdg"))


def test_commands_are_found_in_pipes_scripts_and_workflows():
    found = lambda line: [" ".join(words) for words in commands(line)]  # noqa: E731
    assert found("stochx list --json | jq .results  # all") == ["list --json"]
    assert found("srun torchrun --standalone -m stochx info a.pt && stochx list") == ["info a.pt", "list"]
    assert found("- run: stochx info a.pt#ema > out") == ["info a.pt#ema"]
    assert found("source <(stochx --completion bash)") == ["--completion bash"] and not found("pip install stochx")


@pytest.mark.parametrize("page", MANUAL)
def test_blocks_without_a_language_are_for_a_shell(page):
    """The manual colours them as such, and is not built where one is none, such as a text with an apostrophe."""
    for _, language, block in FENCE.findall(MANUAL[page]):
        assert language or shlex.split(block, comments=True)


def test_every_command_has_a_page_that_begins_with_its_task(reference):
    for name in [*settings.COMMANDS, "list"]:
        head, mark, options = MANUAL[f"docs/commands/{name}.md"].partition(reference.MARK)
        assert mark and "## Options" in options and head.startswith(f"# stochx {name}\n")
        assert any(words[:1] == [name] for line in shell_lines(head) for words in commands(line)), name


def test_the_reference_is_that_of_the_declarations(reference):
    """If this fails: `make reference`."""
    pages = reference.pages()
    assert {path: path.read_text(encoding="utf-8") for path in pages} == pages
    there = {*(ROOT / "docs" / "entries").iterdir(), *(ROOT / "docs" / "commands").iterdir()}
    assert there == set(pages)


def test_the_reference_shows_every_option(reference):
    text = MANUAL["docs/commands/attack.md"].partition(reference.MARK)[2]
    assert "| `-a, --attack NAME[:KEY=VALUE,...]` |" in text and "| `32`; at least 1 |" in text
    assert all(f"{option.opts[0]}" in text for option in GROUP.commands["attack"].params if option.opts[0][0] == "-")


def test_options_in_sentences_are_options():
    names = [*settings.COMMANDS, "list"]
    known = {flag for name in names for p in GROUP.commands[name].params for flag in (*p.opts, *p.secondary_opts)}
    known |= {flag for param in GROUP.params for flag in param.opts} | FOREIGN
    said = {
        (page, flag)
        for page, text in MANUAL.items()
        for code in INLINE.findall(prose(text))
        for flag in re.findall(r"^(--[a-z][\w-]*)", code)
    }
    assert not {(page, flag) for page, flag in said if flag not in known} and len(said) > 50


def test_choices_in_sentences_are_choices():
    """`smoothtaylor:sigma=0.5` is an entry of some family with such a key."""
    wrong, right = [], 0
    for page, text in MANUAL.items():
        for spec in INLINE.findall(prose(text)):
            catalogs = [catalog for catalog in FAMILIES.values() if spec.partition(":")[0] in catalog]
            if catalogs and re.fullmatch(r"[a-z][\w-]*:[\w-]+=[^=|]+(,[\w-]+=[^=|]+)*", spec):
                right += 1
                wrong += [(page, spec)] * (not any(map(lambda catalog: _parses(catalog, spec), catalogs)))  # noqa: C417
    assert not wrong and right > 15


def _parses(catalog, spec):
    try:
        return bool(catalog.parse(spec))
    except UsageError:
        return False


def test_make_targets_in_the_texts_are_targets():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    blocks = "\n".join(line for text in TEXTS.values() for line in shell_lines(text))
    said = {*re.findall(r"^make ([\w-]+)", blocks, re.M), *re.findall(r"`make ([\w-]+)`", "".join(TEXTS.values()))}
    assert said <= set(targets) and said


def anchors(text):
    """The anchors of a page's headings, as GitHub names them."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        name = "".join(c for c in plain if c in "-_ " or unicodedata.category(c)[0] in "LN").replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return found


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    text = INLINE.sub("", prose(TEXTS[page]))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"https?:|mailto:", path):
            continue
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{page}: {target}"


def test_no_line_is_taken_for_a_comment():
    """The site leaves out lines that begin with a percent sign."""
    assert not [page for page, text in MANUAL.items() if re.search(r"^\s*%", prose(text), re.M)]


def test_readme_is_short():
    assert len(MANUAL["README.md"].splitlines()) < 200


def test_pictures_are_small_shown_and_described():
    pictures = [*(ROOT / "docs" / "pictures").iterdir()]
    everything = "".join(MANUAL.values())
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture
        assert re.search(rf"!\[[^\]]{{20,}}\]\([^)]*pictures/{re.escape(picture.name)}\)", everything), picture
    assert not [svg for svg in pictures if svg.suffix == ".svg" and re.search(r"url\(|href=", svg.read_text())]


def test_readme_quotes_the_results():
    results = re.sub(
        r"[|\s]+", " ", " ".join(text for page, text in MANUAL.items() if page.startswith("docs/results/"))
    )
    quotes = re.findall(r"^> (.*)$", MANUAL["README.md"], re.M)
    assert len(quotes) >= 5 and all(re.sub(r"[|\s]+", " ", quote) in results for quote in quotes)


def answers(text):
    """The answers in one sentence that a page of results starts with."""
    return re.findall(r"\A# .*\n\n\*\*(.+)\*\*\n", text)


def test_readme_quotes_the_answer_that_a_page_starts_with():
    assert answers("# A page\n\n**It is so.**\n\nmore **bold**\n") == ["It is so."]
    pages = [text for page, text in MANUAL.items() if page.startswith("docs/results/")]
    quotes = re.findall(r"^> (.*)$", MANUAL["README.md"], re.M)
    assert not {answer for text in pages for answer in answers(text)} - {*quotes}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that snippets name."""
    monkeypatch.chdir(tmp_path)
    for folder in ("teacher", "run", "student"):
        (tmp_path / folder).mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(width=4)(3)
    model.classes, model.preparation = ("ant", "bee", "cat"), Preparation(16, 16)
    for file in ("teacher/model.safetensors", "student/student.safetensors"):
        weights.save(tmp_path / file, model.eval())
    save_fewshot(tmp_path / "run" / "model.safetensors", make_fewshot("convnet:width=4", "cosine", 2, 16, 0, {}))
    for label, name in enumerate(model.classes * 2):
        file = tmp_path / "photos" / "test" / name / f"{label}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 20), (30 * label, 90, 200)).save(file)
    Image.effect_noise((24, 20), 60).convert("RGB").save(tmp_path / "img.jpg")
    return tmp_path


SNIPPETS = {
    page: [block for _, language, block in FENCE.findall(text) if language == "python"]
    for page, text in MANUAL.items()
    if page != "docs/extending.md"  # whose files test_outside_entries.py runs
}


@pytest.mark.parametrize("page", [page for page, blocks in SNIPPETS.items() if blocks])
def test_the_snippets_of_a_page_run(page, place):
    """One after the other, with fewer draws, which take their time."""
    names = {"support": torch.rand(2, 1, 3, 16, 16), "query": torch.rand(3, 3, 16, 16), "__name__": "snippet"}
    names["ResNet20"] = lambda: ConvNet(width=4)(3).network
    for block in SNIPPETS[page]:
        exec(block.replace("roots=500", "roots=5").replace("steps=20", "steps=2"), names)
    if page == "README.md":
        assert names["adversarial"].shape == (3, 16, 16) and names["rows"][0]["n"] == 6
    if page == "docs/python.md":
        assert names["scores"].shape == (3, 2) and names["data"][-1][1] == 2


@pytest.mark.parametrize("page", ["docs/repeatable.md", "docs/reliability.md"])
def test_every_promise_names_a_test_that_is_there(page):
    tables = re.findall(r"\| test \|\n\|[-|]+\|\n((?:\|.*\n)+)", MANUAL[page])
    rows = [row for table in tables for row in table.splitlines()]
    files = [*(ROOT / "tests").glob("test_*.py"), *(ROOT / "stochx" / "testing").glob("test_*.py")]
    tests = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.M)}
    assert len(rows) >= 10
    for row in rows:
        named = {*re.findall(r"`(test_\w+)`", row)}
        assert named and named <= tests, row
