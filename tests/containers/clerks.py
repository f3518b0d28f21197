"""The application of most tests here: the clerks of `tests.chaos`, whose books show what was lost or doubled."""

from rookery import App
from tests.chaos.interpreter import Clerk

app = App(agents=[Clerk])
