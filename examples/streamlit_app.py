"""Streamlit: one runtime for all sessions, a conversation each.

streamlit run streamlit_app.py
"""

from __future__ import annotations

import streamlit as st

from greenroom import blocking


@st.cache_resource
def runtime() -> blocking.Runtime:
    """Opened once a process; each run of this script, on whatever thread, uses it."""
    return blocking.Runtime().open()


if "session" not in st.session_state:
    st.session_state.session = blocking.ChatSession(runtime(), instructions="Be brief.")

for message in st.session_state.session.history:
    st.chat_message(message["role"]).write(message["content"])
if prompt := st.chat_input("Say something"):
    st.chat_message("user").write(prompt)
    with st.session_state.session.stream_response(prompt, max_tokens=60) as answer:
        st.chat_message("assistant").write_stream(answer)
