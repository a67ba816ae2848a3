"""The laboratory tested by itself, so that a red test elsewhere is about the product."""
