package edgefuse

/** What is wrong with a bundle or an input, in one sentence. */
class BundleException(message: String) : Exception(message)

/**
 * Strict JSON: no equal keys in one object, no NaN, nothing after the value. Objects become [Map], lists [List],
 * integers [Long], other numbers [Double]; the rest String, Boolean and null.
 */
class Json private constructor(private val text: String) {
    private var at = 0

    private fun value(depth: Int): Any? {
        if (depth > 64) fail("nested too deeply")
        blank()
        return when (peek()) {
            '{' -> objectFrom(depth)
            '[' -> listFrom(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun objectFrom(depth: Int): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        items('}') {
            blank()
            if (peek() != '"') fail("a key should stand here")
            val key = string()
            blank()
            take(':')
            val value = value(depth + 1)
            if (found.containsKey(key)) fail("the key '$key' stands twice in one object")
            found[key] = value
        }
        return found
    }

    private fun listFrom(depth: Int): List<Any?> {
        val found = ArrayList<Any?>()
        items(']') { found.add(value(depth + 1)) }
        return found
    }

    private fun items(end: Char, item: () -> Unit) {
        at++
        blank()
        if (peek() == end) { at++; return }
        while (true) {
            item()
            blank()
            if (peek() == end) { at++; return }
            take(',')
        }
    }

    private fun string(): String {
        val found = StringBuilder()
        at++
        while (true) {
            val c = peek()
            at++
            when {
                c == '"' -> return found.toString()
                c == '\\' -> found.append(escaped())
                c < ' ' -> fail("a control character in a string")
                else -> found.append(c)
            }
        }
    }

    private fun escaped(): Char {
        val c = peek()
        at++
        if (c == 'u') {
            val code = text.substring(at, minOf(at + 4, text.length)).toIntOrNull(16) ?: fail("a bad escape")
            at += 4
            return code.toChar()
        }
        val index = "\"\\/bfnrt".indexOf(c)
        return if (index < 0) fail("a bad escape") else "\"\\/\b\u000c\n\r\t"[index]
    }

    private fun number(): Any {
        val found = NUMBER.matchAt(text, at)?.value ?: fail("no value")
        at += found.length
        found.toLongOrNull()?.let { return it }
        return found.toDouble().also { if (!it.isFinite()) fail("a number that does not fit") }
    }

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) fail("no value")
        at += word.length
        return value
    }

    private fun blank() {
        while (at < text.length && text[at] in " \t\r\n") at++
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail("it ends too early")

    private fun take(c: Char) {
        if (peek() != c) fail("'$c' should stand here")
        at++
    }

    private fun fail(why: String): Nothing =
        throw BundleException("manifest.json is not a valid manifest: $why at character $at")

    companion object {
        private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")

        fun parse(text: String): Any? {
            val json = Json(text)
            val value = json.value(0)
            json.blank()
            if (json.at != text.length) json.fail("something follows")
            return value
        }
    }
}
