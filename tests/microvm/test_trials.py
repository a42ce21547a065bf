"""A guest that ran once is not tried again, one that did not is."""

from __future__ import annotations

from pathlib import Path

from dms_executor.microvm.trials import tried


def test_what_ran_is_tried_once_of_the_same_program_and_what_did_not_again(tmp_path: Path) -> None:
    program, answers, asked = tmp_path / "monitor", ["no KVM", "", "no emulation", "", ""], []
    program.write_text("one")

    def trial() -> str:
        asked.append(answers[len(asked)])
        return asked[-1]

    assert tried(str(program), trial, "kvm") == "no KVM"
    assert [tried(str(program), trial, "kvm") for _ in range(3)] == ["", "", ""]
    assert len(asked) == 2
    assert tried(str(program), trial, "tcg") == "no emulation"  # which the other accelerator says nothing of
    assert [tried(str(program), trial, "tcg") for _ in range(2)] == ["", ""]
    assert len(asked) == 4
    other = tmp_path / "other"
    other.write_text("another")
    other.rename(program)
    assert tried(str(program), trial, "kvm") == ""
    assert len(asked) == 5
