"""The processes of one machine: embedded servers, their supervision, and who owns them."""
