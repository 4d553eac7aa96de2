"""What is made of models: convert/, quantize/, finetune/ and merge/, each a step with a recipe.

Recipes, receipts and replay are in provenance/; scoring and comparing are in evaluation/.
"""
