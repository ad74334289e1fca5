"""Models on this machine: names -> folders, and what a folder holds. No torch, no network."""

from bobot.hub.names import resolve as resolve
