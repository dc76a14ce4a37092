"""The mutants themselves: what is changed, what is left alone, and that the lists are true."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.mutation.equivalents import equivalents
from tests.mutation.forks import ROOT
from tests.mutation.loop import Result
from tests.mutation.mutate import mutants_of
from tests.mutation.page import BEGIN, END, write_rows

SOURCE = '''
LIMIT = 3
T = TypeVar("T")
_log = logging.getLogger("a.name")
def f(a: int, b: "str") -> "int":
    """A docstring."""
    if a < LIMIT and b:
        raise ValueError("a text for people")
    return max(a, 1)
'''


def changes() -> set[tuple[str, str]]:
    return {(each.was, each.becomes) for each in mutants_of(ast.parse(SOURCE))}


def test_conditions_constants_statements_and_calls_have_mutants() -> None:
    assert {
        ("3", "4"),
        ("a < LIMIT", "a <= LIMIT"),
        ("a < LIMIT and b", "a < LIMIT or b"),
        ("a < LIMIT and b", "b"),
        ("raise ValueError('a text for people')", "pass"),
        ("max", "min"),
        ("return max(a, 1)", "return None"),
    } <= changes()


def test_texts_and_annotations_have_none() -> None:
    assert not any("XX" in becomes for _, becomes in changes())


def test_applying_one_changes_only_its_place() -> None:
    tree = ast.parse(SOURCE)
    [mutant] = [each for each in mutants_of(tree) if each.becomes == "a <= LIMIT"]
    mutant.apply()
    assert ast.unparse(tree) == ast.unparse(ast.parse(SOURCE)).replace("a < LIMIT", "a <= LIMIT")


def test_what_is_changed_at_import_is_told_from_what_functions_do() -> None:
    in_body = {each.was: each.in_body for each in mutants_of(ast.parse(SOURCE))}
    assert in_body["3"] is False
    assert in_body["a < LIMIT"] is True


def test_each_equivalent_mutant_exists_and_has_a_reason() -> None:
    for entry in equivalents():
        tree = ast.parse((ROOT / entry.module).read_text(encoding="utf-8"))
        assert any(entry.is_of(entry.module, each) for each in mutants_of(tree)), entry
        assert entry.reason.endswith(".")


def test_a_run_replaces_the_rows_of_its_modules_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n", encoding="utf-8")
    write_rows(page, [Result("a.py", all=4, run=4, killed=1), Result("b.py", all=9)], seed=1)
    write_rows(page, [Result("a.py", all=4, run=4, killed=3, survivors=["x"])], seed=2)
    text = page.read_text(encoding="utf-8")
    assert "| `a.py` | 4 | all | 3 | 0 | 1 | 0 | 75.0 % |" in text
    assert text.count("`a.py`") == text.count("`b.py`") == 1
    assert text.startswith("before\n")
    assert text.endswith("after\n")
