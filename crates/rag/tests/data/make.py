"""Writes the small documents in this folder. Ran with python-docx 1.2.0, reportlab 5.1.0, pypdf 7.1.0.

    python make.py
"""
import pathlib
from docx import Document
from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen import canvas

here = pathlib.Path(__file__).parent

doc = Document()
doc.core_properties.title = "Returns guide"
doc.add_heading("Returns", 1)
doc.add_paragraph("Send the laptop back within 30 days.")
doc.add_heading("Costs", 2)
doc.add_paragraph("We pay for:")
doc.add_paragraph("the parcel", style="List Bullet")
doc.add_paragraph("the insurance", style="List Bullet")
table = doc.add_table(rows=2, cols=2)
for row, cells in zip(table.rows, [("Country", "Price"), ("Norway", "12 euros")]):
    for cell, text in zip(row.cells, cells): cell.text = text
doc.save(here / "guide.docx")

page = canvas.Canvas(str(here / "guide.pdf"), invariant=1)
page.setTitle("Returns guide")
for name, heading, line in [("r", "Returns", "Send the laptop back within 30 days."), ("c", "Costs", "We pay for the parcel.")]:
    page.bookmarkPage(name)
    page.addOutlineEntry(heading, name)
    page.drawString(72, 760, heading)
    page.drawString(72, 700, line)
    page.showPage()
page.save()

empty = canvas.Canvas(str(here / "scanned.pdf"), invariant=1)
empty.rect(72, 72, 300, 300, fill=1)
empty.showPage()
empty.save()

locked = PdfWriter(clone_from=PdfReader(here / "guide.pdf"))
locked.encrypt("secret", algorithm="RC4-128")
locked.write(here / "locked.pdf")
