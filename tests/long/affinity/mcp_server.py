"""A real MCP server by streamable HTTP, with its sessions in this process: mcp_server.py PORT NUMBER"""
import sys

from mcp.server.fastmcp import Context, FastMCP

PORT, NUMBER = int(sys.argv[1]), sys.argv[2]
server = FastMCP("who", host="127.0.0.1", port=PORT, log_level="WARNING")
counts = {}


@server.tool()
def who(context: Context) -> str:
    """The server's number, and how often this session has asked."""
    session = id(context.session)
    counts[session] = counts.get(session, 0) + 1
    return f"{NUMBER} {counts[session]}"


server.run(transport="streamable-http")
