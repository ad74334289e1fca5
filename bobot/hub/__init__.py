"""Models on this machine: names -> folders, and what a folder holds. No torch, no network."""

from bobot.hub.resolve import resolve as resolve
