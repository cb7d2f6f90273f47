"""What coordinator and bank exchange before they can talk: invitation, request, package, and the terms of both."""
