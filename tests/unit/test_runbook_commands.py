"""How a runbook's page is read, and how an answer is compared with what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runbook.commands import Command, File, answers, steps
from tests.runbook.not_run import reason

PAGE = """# Page

Create the file: `/etc/a.yaml`

```yaml
a: 1
```

## Section

```bash
# a comment
one --flag
# Expected: {"a": 1}
two \\
  more
cat >> b <<EOF
  # Expected is content here
EOF

GET http://localhost/x

# Expected Response:
{
  "b": {
    "c": 2
  }
}
three
# Expected:
# - first
# - second
```

```json
{"not": "a command"}
```
"""


def test_commands_come_in_order_with_their_answers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    first, *commands = steps(page)
    assert first == File(5, "/etc/a.yaml", "a: 1\n")
    assert commands == [
        Command(13, "Section", "one --flag", '{"a": 1}'),
        Command(15, "Section", "two \\\n  more"),
        Command(17, "Section", "cat >> b <<EOF\n  # Expected is content here\nEOF"),
        Command(21, "Section", "curl http://localhost/x", '{\n"b": {\n"c": 2\n}\n}'),
        Command(29, "Section", "three", "- first\n- second"),
    ]


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ('{"a": 1, "b": 2}', '{"a": 1}', True),
        ('{"a": true}', '{"a": 1}', False),
        ('{"b": 2}', '{"a": 1}', False),
        ('"closed"\n', '"closed" (healthy)', True),
        ('"open"\n', '"closed" (healthy)', False),
        ("1 ok, 0 problems", "0 problems", True),
        ("first\nsecond", "- first\n- second", True),
        ("first", "- first\n- second", False),
    ],
)
def test_answers(output: str, expected: str, same: bool) -> None:
    assert answers(output, expected) is same


def test_what_is_not_in_the_table_is_run() -> None:
    assert reason("curl http://localhost:8080/health") == ""
    assert reason("sudo systemctl restart dwcp-manager") == ""
    assert reason("sudo systemctl status dwcp-manager") != ""
    assert reason("some-new-command") == ""
