"""An application before it is started."""

import click
import pytest

from rookery import App, ConfigurationError


def test_the_command_line_shows_every_bad_setting_and_exits_with_2() -> None:
    with pytest.raises(ConfigurationError) as raised:
        App("shop", partitions=0, web_port=99_999)
    error = raised.value
    assert len(error.problems) == 2
    assert isinstance(error, click.ClickException)
    assert error.exit_code == 2
    assert all(problem in error.format_message() for problem in error.problems)


def test_a_worker_has_the_name_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_ID", "node1")
    assert App("shop").worker_name == "node1"
    monkeypatch.delenv("AGENT_ID")
    assert App("shop").worker_name != App("shop", agent_id="node2").worker_name == "node2"


def test_an_application_is_made_before_there_is_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules make theirs when they are imported; newer Pythons warn of asking for a loop then, or refuse."""

    def refuse() -> None:
        raise RuntimeError("there is no event loop")

    monkeypatch.setattr("mode.services.get_event_loop", refuse)
    assert App("shop").topic_names.app_id == "shop"
