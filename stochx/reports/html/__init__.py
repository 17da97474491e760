"""The report of runs as one HTML file: sections, a section of a command in a file each, and the page around them."""

from __future__ import annotations

from stochx.reports.html.blocks import Page, Part, Run, Section
from stochx.reports.html.page import render
from stochx.reports.html.pictures import Album, room_for
from stochx.reports.html.sections import ROOMS, make_comparison, make_section

__all__ = ["ROOMS", "Album", "Page", "Part", "Run", "Section", "make_comparison", "make_section", "render", "room_for"]
