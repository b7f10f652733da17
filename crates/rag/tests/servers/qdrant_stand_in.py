"""Answers Qdrant's REST calls for tests: bodies are checked by the official qdrant-client's models, answers come from its
local mode. It proves the JSON we send and read, not the server. Needs qdrant-client 1.16 or later.

    python qdrant_stand_in.py PORT
"""
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from qdrant_client import QdrantClient, models as m
from pydantic import TypeAdapter

client = QdrantClient(":memory:")

def parse(model, body): return TypeAdapter(model).validate_json(body)

def answer(method, path, body):
    name, _, action = path.split("?")[0].removeprefix("/collections/").partition("/")
    if method != "PUT" and not client.collection_exists(name): raise LookupError(f"Collection `{name}` doesn't exist!")
    if not action:
        if method == "GET": return client.get_collection(name)
        if method == "DELETE": return client.delete_collection(name)
        c = parse(m.CreateCollection, body)
        return client.create_collection(name, vectors_config=c.vectors, sparse_vectors_config=c.sparse_vectors)
    if action == "index": i = parse(m.CreateFieldIndex, body); return client.create_payload_index(name, i.field_name, i.field_schema)
    if action == "points" and method == "PUT": return client.upsert(name, parse(m.PointsList, body).points)
    if action == "points": r = parse(m.PointRequest, body); return client.retrieve(name, r.ids, with_payload=r.with_payload, with_vectors=r.with_vector or False)
    if action == "points/delete": return client.delete(name, parse(m.PointsSelector, body))
    if action == "points/count": r = parse(m.CountRequest, body); return client.count(name, r.filter, exact=r.exact)
    if action == "points/query":
        r = parse(m.QueryRequest, body)
        return client.query_points(name, r.query, using=r.using, query_filter=r.filter, limit=r.limit, with_payload=r.with_payload, search_params=r.params)
    if action == "points/scroll":
        r = parse(m.ScrollRequest, body)
        points, following = client.scroll(name, r.filter, limit=r.limit, offset=r.offset, with_payload=r.with_payload, with_vectors=r.with_vector)
        return {"points": [p.model_dump() for p in points], "next_page_offset": following}
    raise ValueError(f"no such call: {method} {path}")

class Handler(BaseHTTPRequestHandler):
    def serve(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try: status, reply = 200, {"status": "ok", "result": TypeAdapter(object).dump_python(answer(self.command, self.path, body), mode="json")}
        except LookupError as error: status, reply = 404, {"status": {"error": str(error)}}
        except Exception as error: status, reply = 400, {"status": {"error": str(error)}}
        data = json.dumps(reply).encode()
        self.send_response(status); self.send_header("content-length", str(len(data))); self.end_headers(); self.wfile.write(data)
    do_GET = do_PUT = do_POST = do_DELETE = serve
    def log_message(self, *_): pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
