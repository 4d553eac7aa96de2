"""The uses that policies forbid, in one table: what people type, and what clauses name.

A use policy lists what a model must not be used for; each names the same things in other words.
The categories here are shared by all of them, so that ``--fields-of-use military`` asks every
licence of a chain the same question.
"""

from overt.errors import BadRequest

# category: what it is called to people, then other words for it.
FIELDS: dict[str, tuple[str, ...]] = {
    "unlawful": ("anything unlawful", "illegal", "crime", "criminal activity"),
    "violence": ("violence or terrorism", "terrorism", "extremism", "incitement"),
    "child exploitation": ("exploiting or harming children", "csam", "child abuse", "minors"),
    "trafficking": ("human trafficking", "sexual exploitation"),
    "sexual content": ("sexually explicit content", "pornography", "adult content", "erotica"),
    "sexual solicitation": ("sexual solicitation", "solicitation"),
    "harassment": ("harassment, threats or bullying", "bullying", "threats", "abuse"),
    "hate": ("hate speech", "hate speech", "hatred"),
    "discrimination": ("unlawful discrimination", "profiling by protected traits"),
    "unlicensed practice": ("practising a profession without its licence", "unlicensed"),
    "medical advice": ("medical advice", "health advice", "diagnosis", "medical", "healthcare"),
    "legal advice": ("legal advice", "legal"),
    "financial advice": ("financial advice", "financial", "finance"),
    "personal data": ("sensitive personal data without consent", "privacy", "doxing"),
    "infringement": ("infringing the rights of others", "piracy", "copyright infringement"),
    "malware": ("malicious code", "hacking", "cyberattack", "phishing"),
    "safety circumvention": ("removing safety measures", "jailbreak", "jailbreaking"),
    "military": ("military or warfare", "warfare", "defence", "defense", "war"),
    "nuclear": ("nuclear industries or applications", "nuclear technology", "nuclear energy"),
    "espionage": ("espionage", "spying"),
    "weapons": ("weapons", "guns", "firearms", "weapon development", "arms"),
    "mass destruction": (
        "biological, chemical or nuclear weapons",
        "chemical weapons",
        "biological weapons",
        "nuclear weapons",
        "missiles",
        "wmd",
    ),
    "drugs": ("illegal drugs and controlled substances", "controlled substances"),
    "critical infrastructure": (
        "operating critical infrastructure",
        "power grid",
        "infrastructure",
    ),
    "transportation": ("operating transport technology", "transport", "vehicles", "aviation"),
    "heavy machinery": ("operating heavy machinery", "machinery"),
    "self harm": ("self-harm", "suicide", "eating disorders"),
    "fraud": ("fraud and scams", "scams", "deception"),
    "disinformation": ("disinformation", "misinformation", "fake news", "false information"),
    "defamation": ("defamation", "libel", "slander"),
    "spam": ("spam", "bulk messages"),
    "impersonation": ("impersonation", "deepfakes", "deepfake"),
    "undisclosed machine text": ("passing output off as human", "undisclosed ai", "bots"),
    "fake engagement": ("fake reviews and other false engagement", "fake reviews"),
    "surveillance": ("surveillance", "tracking people", "monitoring people"),
    "biometric identification": ("biometric identification", "biometrics", "face recognition"),
    "law enforcement": ("law enforcement", "police", "policing", "predictive policing"),
    "justice": ("administration of justice", "courts", "judiciary"),
    "immigration": ("immigration and asylum", "asylum", "migration", "border control"),
    "social scoring": ("judging people by behaviour or personality", "behavioural profiling"),
    "automated decisions": (
        "fully automated decisions about people's rights",
        "credit scoring",
        "hiring decisions",
        "automated decision making",
    ),
    "vulnerable groups": ("exploiting vulnerable groups", "manipulation"),
    "gambling": ("gambling", "betting"),
    "elections": ("elections and political campaigns", "political campaigns", "lobbying"),
    "animal harm": ("harming animals", "animal abuse"),
    # Uses no policy lists, so that what people ordinarily do has a name too.
    "general": ("none of these", "none", "chat", "coding", "education", "research", "writing"),
}


def label(category: str) -> str:
    """What a category is called in sentences."""
    return FIELDS[category][0] if category in FIELDS else category


_WORDS: dict[str, str] = {
    word: category
    for category, (name, *words) in FIELDS.items()
    for word in (category, name, *words)
}


def category(word: str) -> str:
    """The category of a free word. Raises BadRequest, listing the known ones."""
    found_category = _WORDS.get(" ".join(word.lower().replace("-", " ").replace("_", " ").split()))
    if found_category is None:
        found_category = _WORDS.get(" ".join(word.lower().split()))
    if found_category is None:
        raise BadRequest(
            f"no use policy of the table knows the field of use {word.strip()[:60]!r}",
            "say one of " + ", ".join(FIELDS),
        )
    return found_category
