"""Writes tests/goldens/metrics/*.json: answers, rankings and samples with the scores that other programs give them.
Ran with sacrebleu 2.6.0, rouge-score 0.1.2 (nltk 3.10.4), torchmetrics 1.9.0, pytrec-eval-terrier 0.5.11,
scipy 1.17.1, statsmodels 0.15.0, jsonschema 4.26.0.

    python scripts/make_metric_goldens.py
"""

import json
from collections import Counter
from pathlib import Path

import jsonschema
import numpy
import pytrec_eval
import scipy.stats
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from statsmodels.stats.multitest import multipletests
from torchmetrics.functional.text import squad
from torchmetrics.functional.text.squad import _get_tokens

OUT = Path(__file__).parent.parent / "tests/goldens/metrics"

# (answer, references): what models say, and what tokenizers stumble over.
PAIRS = [
    ("the cat sat on the mat", ["the cat is on the mat"]),
    ("a quick brown fox", ["the quick brown fox jumps"]),
    ("Standard delivery takes 6 working days from our quay to your door.", ["6 working days", "six working days"]),
    ("You have 14 days, i.e. until 3.5.2024, to return it.", ["14 days"]),
    ("", ["something"]),
    ("an", ["the"]),
    ("A well-known, state-of-the-art approach (see Smith's 2-3 papers): $1,234.56!", ["state-of-the-art approaches cost $1,234.56"]),
    ("Die Größe beträgt 3 µm – naïve Façade's ÉCOLE", ["die größe beträgt 3 µm", "École naïve façade"]),
    ("I'm sorry; I don't know the answer & can't say.&quot;", ["I do not know", "unknown"]),
    ("line one\nline two-\nbroken\tand tabbed", ["line one line two broken and tabbed"]),
    ("the the the the", ["the cat the dog"]),
    ("日本語 のテスト", ["日本語のテスト"]),
    ("Relational conditional happiness of the flying generalizations", ["relate conditions happily flies generalization"]),
]
RANKINGS = [  # relevance of ranks 1.., relevant items in all
    ([1, 0, 0, 0, 0], 1), ([0, 0, 1, 0, 1, 0, 0], 2), ([0] * 12, 1), ([0] * 9 + [1, 1], 3), ([1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1], 12), ([1], 4),
]
CUTS = [1, 3, 5, 10]
WORDS = """caresses ponies ties caress cats feed agreed plastered bled motoring sing conflated troubled sized hopping
tanned falling hissing fizzed failing filing happy sky enjoy spy cry relational conditional rational valency hesitancy
digitizer conformably radically differently vilely analogously vietnamization predication operator feudalism
decisiveness hopefulness callousness formality sensitivity sensibility triplicate formative formalize electricity
electrical hopeful goodness revival allowance inference airliner gyroscopic adjustable defensible irritant replacement
adjustment dependent adoption homologou communism activate angularity homologous effective bowdlerize probate rate
cease controll roll dying lying news innings proceed exceeded succeed flies dies died spied mules agreement yyyy
geology theology archaeology carefully skillfully usefully oxidation 2024 a3ing yes saying employed layer boxes taxed
generically using used being tree knack days played owing sses""".split()
SCHEMAS = [
    ({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer", "minimum": 1}}, "additionalProperties": False},
     [{"a": 1}, {"a": 1.0}, {"a": 0}, {"b": 1}, {"a": 1, "b": 2}, [], "x", {"a": True}]),
    ({"type": ["array", "null"], "items": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}, "minItems": 1},
     [None, [], ["abc"], ["abcd"], ["A"], [1], {}]),
    ({"enum": ["x", 1, [1.0]]}, ["x", 1.0, [1], True, "y"]),
    ({"anyOf": [{"const": 0}, {"type": "number", "maximum": -1}]}, [0, False, -2, -0.5, 0.0]),
    (True, [None, 3]),
    ({"minLength": 2}, ["é", "éé", 5]),
]


def answers():
    rouge = {stemmed: RougeScorer(["rougeL"], use_stemmer=stemmed) for stemmed in (False, True)}
    cases = []
    for answer, references in PAIRS:
        scores = squad({"prediction_text": answer, "id": "0"}, {"answers": {"answer_start": [0] * len(references), "text": references}, "id": "0"})
        mine = Counter(_get_tokens(answer))
        recalls, knowledge = [], []
        for reference in references:
            theirs = Counter(_get_tokens(reference))
            both = (mine & theirs).total()
            recalls.append(both / theirs.total() if theirs else 0.0)
            knowledge.append(both / mine.total() if mine else 0.0)
        cases.append({
            "answer": answer, "references": references,
            "exact_match": scores["exact_match"].item() / 100, "f1": scores["f1"].item() / 100,
            "answer_recall": max(recalls), "k_precision": max(knowledge),
            "rouge_l": [list(rouge[False].score(reference, answer)["rougeL"]) for reference in references],
            "rouge_l_stemmed": [list(rouge[True].score(reference, answer)["rougeL"]) for reference in references],
        })
    return cases


def corpora():
    longest = max(len(references) for _, references in PAIRS)
    everything = list(range(len(PAIRS)))
    cases = []
    for rows in [everything, [0, 1], [2], [6, 7, 8], [4, 5], [10], [12]]:
        hypotheses = [PAIRS[row][0] for row in rows]
        width = max(len(PAIRS[row][1]) for row in rows)
        streams = [[(PAIRS[row][1] + [None] * longest)[i] for row in rows] for i in range(width)]
        bleu, chrf = BLEU(), CHRF()
        cases.append({
            "rows": rows,
            "bleu": bleu.corpus_score(hypotheses, streams).score, "bleu_signature": str(bleu.get_signature()),
            "chrf": chrf.corpus_score(hypotheses, streams).score, "chrf_signature": str(chrf.get_signature()),
        })
    return cases


def rankings():
    measures = {f"{name}.{','.join(map(str, CUTS))}" for name in ("success", "recall", "P", "ndcg_cut")} | {"recip_rank"}
    cases = []
    for relevance, relevant in RANKINGS:
        run = {f"d{rank:02}": 100.0 - rank for rank in range(len(relevance))}
        found = [f"d{rank:02}" for rank, hit in enumerate(relevance) if hit]
        missing = [f"missing{i}" for i in range(relevant - len(found))]
        scores = pytrec_eval.RelevanceEvaluator({"q": dict.fromkeys(found + missing, 1)}, measures).evaluate({"q": run})["q"]
        for k in CUTS:
            cut = {document: score for document, score in run.items() if int(document[1:]) < k}
            at_k = pytrec_eval.RelevanceEvaluator({"q": dict.fromkeys(found + missing, 1)}, {"recip_rank"}).evaluate({"q": cut})["q"]
            cases.append({
                "relevance": [bool(hit) for hit in relevance], "relevant": relevant, "k": k,
                "hit": scores[f"success_{k}"], "recall": scores[f"recall_{k}"], "precision": scores[f"P_{k}"],
                "mrr": at_k["recip_rank"], "ndcg": scores[f"ndcg_cut_{k}"],
            })
    return cases


def statistics():
    source = numpy.random.default_rng(0)
    samples = []
    for size, shift in [(40, 0.0), (120, 0.2), (300, 0.05)]:
        values = numpy.clip(source.normal(shift, 0.5, size), -1, 1)
        interval = scipy.stats.bootstrap((values,), numpy.mean, n_resamples=200_000, method="percentile", rng=source, batch=1000)
        samples.append({
            "values": [round(value, 6) for value in values.tolist()],
            "low": interval.confidence_interval.low, "high": interval.confidence_interval.high,
            "error": interval.standard_error,
        })
    p = [0.01, 0.04, 0.03, 0.005, 0.6, 0.04]
    return {
        "mcnemar": [[b, c, scipy.stats.binomtest(b, b + c).pvalue] for b, c in [(0, 5), (3, 9), (10, 10), (40, 61), (300, 420), (1, 0)]],
        "holm": {"p": p, "adjusted": multipletests(p, method="holm")[1].tolist()},
        "percentile": [[q, float(numpy.percentile([1.0, 2.0, 4.0, 8.0, 16.0], 100 * q))] for q in (0.0, 0.025, 0.5, 0.61, 0.975, 1.0)],
        "power": float(scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)),
        "bootstrap": samples,
    }


def schemas():
    def holds(value, schema):
        return jsonschema.Draft202012Validator(schema).is_valid(value)
    return [{"schema": schema, "values": [[value, holds(value, schema)] for value in values]} for schema, values in SCHEMAS]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    stemmer = PorterStemmer()
    goldens = {
        "answers": answers(), "corpora": corpora(), "rankings": rankings(), "statistics": statistics(),
        "schemas": schemas(), "stems": {word: stemmer.stem(word) for word in WORDS},
    }
    for name, golden in goldens.items():
        (OUT / f"{name}.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
