"""What two or more rooms of the house share; imports nothing else of the project."""
