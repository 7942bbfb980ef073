"""Engines that somebody else launched, served from behind our ingress."""
