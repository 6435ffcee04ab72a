"""Typed objects that grow while their JSON streams."""
