"""Pictures of what models see, remember and expect: strips, animations, traces and features."""
