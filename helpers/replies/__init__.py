"""From a model's reply to a program: one reader, while the reply is written (stop rules) and when it is there.

``Reader`` takes a reply piece by piece, keeps its code apart from prose, drafts and fences, and knows where the program
has ended. A stop rule asks it for that place alone; ``extract_program`` lets it read the whole reply, and then takes
what it kept. So cutting a reply while it streams and extracting then gives what extracting from all of it gives.
"""

from .programs import extract_program, extract_tests
from .reader import RULES, Reader, StopRule, cut

__all__ = ["RULES", "Reader", "StopRule", "cut", "extract_program", "extract_tests"]
