"""Writes the document side of datasets/support: documents/ (Markdown, HTML, PDF, DOCX, text, reStructuredText, one file broken
on purpose) and questions.jsonl.

    pip install fpdf2 python-docx
    python scripts/make_support_documents.py

The eight policy documents that state the facts of train.jsonl are not touched. What is written here are 31 further
documents whose facts stand in no training row, and the questions of five strata:

    seen               a question of train.jsonl, word for word
    paraphrase         a question of heldout.jsonl: a fact of train.jsonl, asked in other words
    unseen-in-corpus   a fact of these documents alone
    not-in-corpus      neither trained nor documented: the right answer is that it is not known
    format             out of scope or about the desk: the right answer is one in the house's three-line form

Answers of `seen`, `paraphrase` and `unseen-in-corpus` are the shortest string that settles the question.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from docx import Document
from fpdf import FPDF

DATA = Path(__file__).resolve().parent.parent / "datasets" / "support"
OUT = DATA / "documents"

# file, title, paragraphs ("# " begins a heading), questions (question, answers...)
DOCUMENTS = [
    ("sheets/wispen.md", "Wispen data sheet", """
# Light
The Wispen bedside lamp gives 340 lumens at its brightest and dims to a glow of 4 lumens, which is called Harbour Night.
Its colour runs from candle to noon in 16 steps.
# Body
The shade is blown glass from Orrin Bay. The lamp weighs 1.9 kilograms and stands 31 centimetres tall. The cord is woven
linen, 2.2 metres long.
# Power
The Wispen draws 7 watts. It has no battery. After a power cut it comes back at the brightness it had before.
""", [("How bright does the Wispen get?", "340 lumens"), ("What is the dimmest setting of the Wispen called?", "Harbour Night"),
      ("How heavy is the bedside lamp?", "1.9 kilograms"), ("How long is the cord of the Wispen?", "2.2 metres")]),
    ("sheets/glimmet.md", "Glimmet data sheet", """
# Size and weight
The Glimmet pocket lantern is 9 centimetres long and weighs 88 grams with its ring.
# Charging
It charges by a magnetic cup in 95 minutes. The cup is sold as part TW-GC2. Charging below freezing is refused by the lamp
to protect its cell.
# Light
Three modes: Steady, Lull and Beacon. Beacon can be seen from 1,400 metres on a clear night.
""", [("How much does a Glimmet weigh?", "88 grams"), ("How long does charging a Glimmet take?", "95 minutes"),
      ("What is the part number of the Glimmet's charging cup?", "TW-GC2"), ("From how far away can Beacon mode be seen?", "1,400 metres")]),
    ("sheets/fennick.html", "Fennick hub data sheet", """
# Radio
The Fennick hub speaks Threadwave on channel 21 and reaches 45 metres indoors. Thick stone walls halve that.
# Connections
There is one network socket and one charging port at the back. The hub keeps working for 5 hours on its inner battery when
the power fails.
# Light codes
A slow white pulse means that all is well. Green with a short flicker means that an update is being fetched. Violet means
that the hub has lost the network.
""", [("What range does the Fennick have indoors?", "45 metres"), ("Which channel does the Fennick hub use?", "channel 21", "21"),
      ("How long does the hub run when the power fails?", "5 hours"), ("What does a violet light on the hub mean?", "lost the network")]),
    ("sheets/drumlo.html", "Drumlo doorbell data sheet", """
# Camera
The Drumlo doorbell sees 160 degrees and keeps clips for 6 days on its own card. Clips never leave the house.
# Mounting
Mount it 1.2 metres above the step. The wedge in the box turns it by 15 degrees towards the path.
# Sound
Nine chimes are built in. The one called Foghorn is the loudest at 92 decibels.
""", [("How long does the Drumlo keep clips?", "6 days"), ("How high should I mount the doorbell?", "1.2 metres"),
      ("Which Drumlo chime is the loudest?", "Foghorn"), ("How wide is the Drumlo's view?", "160 degrees")]),
    ("sheets/pellimar.pdf", "Pellimar tide clock data sheet", """
# Movement
The Pellimar holds a quartz movement made in Kelsund. It loses no more than 9 seconds a month. One silver cell, type SR-44,
lasts 30 months.
# Case
The case is bronze and will darken with the years; this is meant. It is 24 centimetres across.
# Coasts
It knows 612 harbours. Inland, the hand rests at noon.
""", [("Where is the movement of the Pellimar made?", "Kelsund"), ("Which battery does the tide clock need?", "SR-44"),
      ("How many harbours does the Pellimar know?", "612"), ("How much may the Pellimar drift in a month?", "9 seconds")]),
    ("sheets/larkin.md", "Larkin deck lamp data sheet", """
# New this year
The Larkin is our first lamp for decks and gardens. It costs $74 and comes in tar black and buoy red.
# Weather
It is rated IP67 and has been tested in salt spray for 720 hours. It works down to minus 22 degrees.
# Sun
A panel in the lid fills the cell in 8 hours of full sun. A full cell gives light for three nights.
""", [("What does the Larkin cost?", "$74"), ("In which colours is the Larkin sold?", "tar black and buoy red", "tar black"),
      ("Down to what temperature does the Larkin work?", "minus 22 degrees", "minus 22"), ("How long must the Larkin lie in the sun to fill up?", "8 hours")]),
    ("sheets/tamsel.docx", "Tamsel reading light data sheet", """
# Clip
The Tamsel clips to a book or a bunk of up to 38 millimetres. Its neck bends 270 degrees.
# Light
Warm light of 2,400 kelvin, chosen for sleep. It switches itself off after 75 minutes unless Long Watch is on.
# Price
The Tamsel costs $29. A set of two is $52.
""", [("How thick a board does the Tamsel clip to?", "38 millimetres"), ("When does the Tamsel switch itself off?", "75 minutes"),
      ("What does a pair of Tamsel lights cost?", "$52")]),
    ("sheets/corrin.pdf", "Corrin storm lantern data sheet", """
# Fuel
The Corrin burns lamp oil and nothing else. One filling of 420 millilitres lasts 26 hours. Never use spirit or petrol.
# Wick
The wick is number 14 cotton. Trim it every 10 hours of burning.
# Certificate
Each Corrin carries a brass plate with its number and the initials of the smith.
""", [("How much oil does a Corrin hold?", "420 millilitres"), ("How long does one filling of the Corrin last?", "26 hours"),
      ("Which wick fits the Corrin?", "number 14"), ("How often should the Corrin's wick be trimmed?", "every 10 hours", "10 hours")]),
    ("bulletins/2031-02-glimmet-ring.md", "Service bulletin 31-02: Glimmet ring", """
# Which lamps
Glimmets with serial numbers from GL-40100 to GL-40950 left us with a ring that may open under load.
# What to do
Do not hang them overhead. Ask for the free steel ring, order code RING-31. It screws in by hand; no tool is needed.
# Until when
Rings are sent free until 30 June 2033.
""", [("Which order code gets me the free steel ring?", "RING-31"), ("Which Glimmet serial numbers have the weak ring?", "GL-40100 to GL-40950", "GL-40100"),
      ("Until when are the steel rings free?", "30 June 2033")]),
    ("bulletins/2031-05-drumlo-card.md", "Service bulletin 31-05: Drumlo memory card", """
# What happens
Drumlo doorbells with card firmware 2.6 may stop recording after the 400th clip.
# Cure
Update to firmware 2.7 in Skerry, then hold the bell for 20 seconds. Clips that are on the card are kept.
# Desk
Ask desk Beacon and name bulletin 31-05.
""", [("Which firmware cures the Drumlo that stops recording?", "2.7"), ("After how many clips does the faulty Drumlo stop recording?", "400")]),
    ("bulletins/2032-01-corrin-glass.html", "Service bulletin 32-01: Corrin glass", """
# Recall
Corrin chimneys marked with a small anchor crack at heat. They are recalled. Stop using the lantern at once.
# Exchange
We send two new chimneys and a voucher of $15. No receipt is needed; a photo of the anchor mark is enough.
""", [("What mark do the recalled Corrin chimneys carry?", "anchor"), ("How large is the voucher for a recalled chimney?", "$15")]),
    ("app/skerry-3.1.md", "Skerry 3.1 release notes", """
# New
Rooms can now be drawn on a map called the Chart. Lamps fade in pairs. A lamp can be lent to a guest for up to 48 hours with a
Guest Rope.
# Fixed
Pairing no longer stops at 99 percent on phones with two cards.
# Needs
Android 9 or iOS 15.
""", [("How long can a lamp be lent to a guest in Skerry?", "48 hours"), ("Which Android version does Skerry 3.1 need?", "Android 9", "9"),
      ("What is the room map in Skerry called?", "Chart", "the Chart")]),
    ("app/skerry-3.2.md", "Skerry 3.2 release notes", """
# New
Dawn alarms: lamps rise over 25 minutes before the alarm. Scenes can be shared by a six-letter Scene Knot.
# Changed
The history of light is kept on the phone alone. Backups go into the file skerry.moor.
# Known trouble
On tablets the Chart turns sideways. Version 3.3 will mend it.
""", [("Over how many minutes does a dawn alarm brighten?", "25 minutes", "25"), ("What is the name of Skerry's backup file?", "skerry.moor"),
      ("How are scenes shared in Skerry 3.2?", "Scene Knot")]),
    ("app/privacy.html", "Privacy in Skerry", """
# What we keep
We keep an account name, an email address and the serial numbers of lamps. We do not keep locations, clips or light history.
# How long
An account that is not used for 36 months is deleted after two letters of warning.
# Asking
To see what is kept, write to the Keeper of Papers. An answer comes within 21 days.
""", [("Who do I write to about data kept on me?", "Keeper of Papers"), ("After how long is an unused account deleted?", "36 months"),
      ("How soon are privacy requests answered?", "21 days")]),
    ("guides/care-of-brass.docx", "Care of brass", """
# Cleaning
Wash brass with lukewarm water and a drop of mild soap. Rub along the grain. Once a year use Binnacle Wax, a tin of which
costs $12 and lasts for about 40 lamps.
# Never
Never use vinegar, lemon or steel wool. Vinegar voids the finish.
""", [("Which wax is made for brass lamps?", "Binnacle Wax"), ("What must never touch brass, besides lemon and steel wool?", "vinegar")]),
    ("guides/winter-storage.md", "Winter storage", """
# Before the frost
Charge lamps to about 60 percent. Put them in the linen bag, not in plastic. Keep them between 5 and 18 degrees.
# In spring
Wipe the seals with silicone grease, type SG-3. A lamp that will not wake needs one hour on the cup before its first light.
""", [("How full should lamps be for winter storage?", "60 percent"), ("Which grease do the seals need in spring?", "SG-3")]),
    ("guides/hanging.rst", "Hanging lamps safely", """
# Hooks
Use the forged hook TW-H5, which carries 18 kilograms. Screw it into wood of at least 40 millimetres.
# Height
Hang lamps 2.1 metres above a walkway. Oil lanterns need 90 centimetres of free air above the chimney.
""", [("How much weight does the forged hook carry?", "18 kilograms"), ("How high should a lamp hang over a walkway?", "2.1 metres"),
      ("How much free air does an oil lantern need above it?", "90 centimetres")]),
    ("guides/lost-password.md", "Lost password", """
# My Cove
Press Lost Anchor on the sign-in page. A letter with a link comes at once. The link works for 35 minutes.
# No letter
Look in the spam folder for the sender knots@tidewick.example. After five wrong tries the account rests for 12 hours.
""", [("How long does the password link work?", "35 minutes"), ("What do I press when I forgot my password?", "Lost Anchor"),
      ("How long does an account rest after five wrong tries?", "12 hours")]),
    ("guides/gift-cards.html", "Gift cards", """
# Buying
Gift cards are called Driftnotes. They are sold from $20 to $400 and arrive by email within 3 hours, or on paper by post.
# Using
A Driftnote is good for 5 years. It cannot pay for Moonwatch. What is left on it stays on it.
""", [("What are Tidewick gift cards called?", "Driftnotes", "Driftnote"), ("For how many years is a gift card good?", "5 years"),
      ("What is the largest gift card?", "$400"), ("What can a gift card not pay for?", "Moonwatch")]),
    ("guides/trade-in.md", "Trading in old lamps", """
# What we take
Any Tidewick lamp made after 2019, working or not. Send it in with the form OLD LIGHT.
# What you get
A working Glimmet brings $14, a working Wispen $26, a broken lamp of any kind $5. The sum is put on a Driftnote.
""", [("What does a working Wispen bring in trade?", "$26"), ("How much is paid for a broken lamp?", "$5"), ("Which form goes with an old lamp?", "OLD LIGHT")]),
    ("trade/wholesale.docx", "Wholesale terms", """
# Minimum
Shops order at least 24 pieces. The discount is 35 percent, and 41 percent from 200 pieces.
# Payment
First orders are paid ahead. After that, invoices are due in 45 days.
# Contact
Wholesale is looked after by Ilse Brandt.
""", [("What is the smallest wholesale order?", "24 pieces", "24"), ("What discount do shops get from 200 pieces?", "41 percent"),
      ("When are wholesale invoices due?", "45 days"), ("Who looks after wholesale?", "Ilse Brandt")]),
    ("trade/press-kit.md", "Press kit", """
# The company
Tidewick was founded in 2011 by Maren Solheim and Tobias Quill in a boathouse. Today 64 people work there.
# Figures
In 2031 we made 118,000 lamps. Two thirds were sold outside the country.
# Pictures
Pictures are free to print with the words Photo: Tidewick.
""", [("Who founded Tidewick?", "Maren Solheim and Tobias Quill", "Maren Solheim"), ("In which year was Tidewick founded?", "2011"),
      ("How many people work at Tidewick?", "64"), ("How many lamps were made in 2031?", "118,000")]),
    ("trade/jobs.html", "Working at Tidewick", """
# The week
We work 34 hours over four days. The fifth day is called Slack Water.
# Benefits
26 days of leave, a lamp a year, and rowing lessons. Apprentices in the glass shop earn from the first day.
# Applying
Write to the Bosun's Mate, Priya Nand. Answers come within 10 days.
""", [("How many hours is the working week?", "34 hours", "34"), ("How many days of leave are there?", "26 days", "26"), ("Who do job applications go to?", "Priya Nand")]),
    ("trade/sustainability.pdf", "Sustainability report 2031", """
# Energy
The workshop ran on 97 percent wind power. Heating used 61 megawatt hours.
# Materials
Of the brass, 83 percent was recycled. Glass is melted from old bottles at Orrin Bay.
# Next
By 2034 every lamp will be repairable with four tools.
""", [("What share of the brass was recycled?", "83 percent"), ("What share of power came from wind?", "97 percent"),
      ("By when will every lamp be repairable with four tools?", "2034")]),
    ("trade/annual-figures.txt", "Annual figures 2031", """
# Sales
Revenue in 2031 was $9.4 million, after $8.1 million in 2030. Profit was $640,000.
# By product
The Glimmet made 52 percent of revenue, the Wispen 21 percent, Moonwatch 11 percent.
# Outlook
The board expects revenue of $10.2 million in 2032. Shipping costs rose by 17 percent.
""", [("What was Tidewick's revenue in 2031?", "$9.4 million"), ("How large was the profit in 2031?", "$640,000"),
      ("What share of revenue did the Glimmet make?", "52 percent"), ("By how much did shipping costs rise?", "17 percent")]),
    ("legal/terms-of-sale.docx", "Terms of sale", """
# 1 Contract
A contract is made when the order is confirmed by email, not when it is placed.
# 2 Title
Goods stay ours until they are paid in full.
# 3 Liability
Liability is limited to twice the price of the goods, save for injury.
# 4 Law
The law of the Selwin Isles applies. Disputes go to the court at Port Selwin after a talk with the mediator, Judge Ottoline Marsh.
""", [("When is a contract with Tidewick made?", "confirmed by email", "when the order is confirmed by email"),
      ("To what sum is liability limited?", "twice the price"), ("Which law applies to sales?", "the Selwin Isles", "Selwin Isles"),
      ("Who mediates disputes?", "Ottoline Marsh", "Judge Ottoline Marsh")]),
    ("legal/warranty-certificate.pdf", "Extended warranty: the Long Rope", """
# What it is
The Long Rope adds 3 years to the warranty of any one lamp. It costs 12 percent of the lamp's price and must be bought within
60 days of the lamp.
# What it covers
It covers drops once. It does not cover lamps that were lent by Guest Rope for pay.
""", [("What is the extended warranty called?", "Long Rope", "the Long Rope"), ("What does the extended warranty cost?", "12 percent"),
      ("Within how many days must the Long Rope be bought?", "60 days", "60")]),
    ("legal/battery-law.md", "Taking back batteries", """
# Where
Used cells may be brought to the shop or sent free with the label CELL-HOME.
# Why
Each Glimmet cell holds 2 grams of cobalt. In 2031 we took back 1.3 tonnes of cells.
""", [("Which label sends used cells back free?", "CELL-HOME"), ("How much cobalt is in a Glimmet cell?", "2 grams")]),
    ("events/lantern-walk.html", "The Lantern Walk", """
# When
Each year on the last Saturday of October, from the quay at 7 pm.
# Route
The walk is 4.6 kilometres to the old light at Cobb Point. Dogs are welcome.
# Tickets
Adults pay $8, children walk free. Soup is ladled out at the Ropery.
""", [("How long is the Lantern Walk?", "4.6 kilometres"), ("What do adults pay for the Lantern Walk?", "$8"), ("Where does the Lantern Walk end?", "Cobb Point")]),
    ("events/workshop-days.md", "Workshop days", """
# Make a lantern
On the first Friday of a month guests build a small lantern in 3 hours. A place costs $65, material included.
# Who
From age 12. At most 10 guests. The teacher is the tinsmith Goran Vey.
# Booking
Book at least 9 days ahead in My Cove under Slipway.
""", [("What does a place in the lantern workshop cost?", "$65"), ("Who teaches the workshop?", "Goran Vey"),
      ("From what age can guests join the workshop?", "12", "age 12"), ("How many days ahead must a workshop be booked?", "9 days", "9")]),
    ("faq/boats.md", "Lamps on boats", """
# Is a Glimmet a legal anchor light?
No. Only the Larkin Marine, sold from May at $119, is approved as an anchor light for boats of up to 12 metres.
# Does salt harm lamps?
Rinse them with fresh water after each trip. Salt that has dried takes 2 spoons of soda in a litre of water.
""", [("Which lamp is approved as an anchor light?", "Larkin Marine"), ("What does the Larkin Marine cost?", "$119"),
      ("For boats of what length is the Larkin Marine approved?", "12 metres")]),
]

NOT_IN_CORPUS = [
    "Does Tidewick make a lamp for aquariums?", "What is the phone number of the warehouse in Tarn Ferry?", "Can I pay with Bitcoin?",
    "How many lumens does the Corrin give?", "Who is Tidewick's head of marketing?", "Is there a student discount?",
    "What is the weight of the Fennick hub?", "Does the Drumlo work with solar panels?", "When will Skerry 4.0 come out?",
    "Do you sell replacement shades for the Larkin?", "What was the revenue in 2025?", "Is the shop wheelchair accessible?",
    "Which airline carries your express parcels?", "How loud is the Pellimar?", "Can I rent lanterns for a wedding?",
    "What is the resale value of a used Tamsel?", "Does Moonwatch support lunar eclipses?", "Who designed the Tidewick logo?",
    "How many stars does the Skerry app have in the store?", "Is there parking at Ropewalk Lane?",
]
NOT_KNOWN = ["not in the documents"]

FORMAT = r"^Ahoy from Tidewick!\n[^\n]+\n\[Ticket: ([a-z]+) \| Desk: ([A-Z][a-z]+)\]$"


def paragraphs(text):
    """Headings and paragraphs, each paragraph on one line."""
    for block in re.split(r"\n(?=# )", text.strip()):
        heading, _, body = block.partition("\n")
        yield heading.removeprefix("# "), " ".join(body.split())


def markdown(title, text):
    return f"# {title}\n\n" + "\n".join(f"## {h}\n\n{b}\n" for h, b in paragraphs(text))


def rest(title, text):
    under = lambda s, c: f"{s}\n{c * len(s)}\n\n"
    return under(title, "=") + "\n".join(under(h, "-") + b + "\n" for h, b in paragraphs(text))


def plain(title, text):
    return f"{title.upper()}\n\n" + "\n".join(f"{h}\n\n{b}\n" for h, b in paragraphs(text))


def html(title, text):
    body = "\n".join(f"<h2>{h}</h2>\n<p>{b}</p>" for h, b in paragraphs(text))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} | Tidewick</title></head><body>
<nav><a href="/">Home</a> <a href="/shop">Shop</a> <a href="/cove">My Cove</a> <a href="/help">Help</a></nav>
<article><h1>{title}</h1>
{body}
</article>
<footer>Tidewick, 3 Ropewalk Lane, Port Selwin. We use no cookies.</footer>
</body></html>
"""


def pdf(path, title, text):
    page = FPDF()
    page.set_creation_date(datetime(2032, 1, 1, tzinfo=UTC))
    page.set_title(title)
    page.add_page()
    page.set_font("Helvetica", "B", 18)
    page.multi_cell(0, 10, title, new_x="LMARGIN", new_y="NEXT")
    for heading, body in paragraphs(text):
        page.set_font("Helvetica", "B", 13)
        page.multi_cell(0, 9, heading, new_x="LMARGIN", new_y="NEXT")
        page.set_font("Helvetica", "", 11)
        page.multi_cell(0, 6, body, new_x="LMARGIN", new_y="NEXT")
    page.output(str(path))


def docx(path, title, text):
    document = Document()
    document.core_properties.title = title
    document.add_heading(title, 1)
    for heading, body in paragraphs(text):
        document.add_heading(heading, 2)
        document.add_paragraph(body)
    document.save(path)


WRITERS = {".md": markdown, ".rst": rest, ".txt": plain, ".html": html}


def write(name, title, text):
    path = OUT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in WRITERS:
        path.write_text(WRITERS[path.suffix](title, text), encoding="utf-8")
    else:
        {".pdf": pdf, ".docx": docx}[path.suffix](path, title, text)


def policy(facts):
    """The policy document that states a fact of the training data."""
    for path in sorted(OUT.glob("*.md")):
        if all(fact.lower() in " ".join(path.read_text().split()).lower() for fact in facts):
            return [{"document": path.name}]
    return []


def rows(name):
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def questions():
    heldout = [row for row in rows("heldout.jsonl") if row["topic"] != "other"]
    for i, row in enumerate(heldout):
        yield "paraphrase", row["prompt"], row["facts"], policy(row["facts"])
    # One training question a fact, found by what its answer holds.
    train, used = rows("train.jsonl"), set()
    for row in heldout:
        same = [t for t in train if all(f.lower() in t["response"].lower() for f in row["facts"]) and t["prompt"] not in used
                and f"Ticket: {row['topic']}" in t["response"]]
        if same and len(used) < 40:
            used.add(same[0]["prompt"])
            yield "seen", same[0]["prompt"], row["facts"], policy(row["facts"])
    for name, _, _, asked in DOCUMENTS:
        for question, *answers in asked:
            yield "unseen-in-corpus", question, answers, [{"document": name}]
    for question in NOT_IN_CORPUS:
        yield "not-in-corpus", question, NOT_KNOWN, []
    for row in [row for row in rows("heldout.jsonl") if row["topic"] == "other"]:
        yield "format", row["prompt"], row["facts"], []


def main():
    for name, title, text, asked in DOCUMENTS:
        write(name, title, text)
        stated = " ".join(" ".join(b for _, b in paragraphs(text)).split()).lower()
        for question, *answers in asked:
            assert answers[0].lower() in stated, f"{name} does not say {answers[0]!r}"
    # Cut short: what a download that failed leaves. Ingestion must name it and go on.
    whole = (OUT / "sheets/corrin.pdf").read_bytes()
    (OUT / "sheets/broken.pdf").write_bytes(whole[: len(whole) // 3])
    lines = []
    for number, (stratum, question, answers, gold) in enumerate(questions(), 1):
        row = {"id": f"q{number:03}", "question": question, "answers": answers, "gold": gold, "stratum": stratum}
        if stratum == "format":
            row["regex"] = FORMAT
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (DATA / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    strata = [json.loads(line)["stratum"] for line in lines]
    print(len(DOCUMENTS), "documents,", {s: strata.count(s) for s in dict.fromkeys(strata)})


main()
