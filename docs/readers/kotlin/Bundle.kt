package edgefuse

import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.charset.CodingErrorAction
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.Path
import java.security.MessageDigest

/** An object of the manifest; a field of another type, or one that is missing without a default, is an error. */
class Fields(private val values: Map<String, Any?>, private val kind: String) {
    operator fun contains(name: String) = name in values

    fun only(vararg known: String) = apply {
        values.keys.firstOrNull { it !in known }?.let {
            throw BundleException("manifest.json has the unknown field '$it' in a $kind: update this reader")
        }
    }

    fun text(name: String, default: String? = null): String = typed(name, default)
    fun flag(name: String, default: Boolean? = null): Boolean = typed(name, default)
    fun number(name: String, default: Long? = null): Long = typed(name, default)
    fun list(name: String): List<Any?> = typed(name, null)
    fun item(name: String, kind: String): Fields = fields(values[name], kind)
    fun items(name: String, kind: String): List<Fields> = list(name).map { fields(it, kind) }
    fun texts(name: String): Map<String, String> = fields(values[name], name).values.mapValues { it.value as String }

    private inline fun <reified T> typed(name: String, default: T?): T = when (val value = values[name]) {
        is T -> value
        null -> default ?: throw BundleException("manifest.json has no '$name' in a $kind")
        else -> throw BundleException("manifest.json has a '$name' of the wrong type in a $kind")
    }

    companion object {
        @Suppress("UNCHECKED_CAST")
        fun fields(value: Any?, kind: String): Fields = Fields(
            value as? Map<String, Any?> ?: throw BundleException("manifest.json has no $kind where one should be"), kind,
        )
    }
}

/** Where files come from: sizes by path, and bytes that are nothing that is trusted yet. */
internal interface Storage {
    val sizes: Map<String, Long>
    fun read(path: String): ByteArray
}

/** The folder. An app's own storage: nobody else changes it while it is read. */
internal class FolderStorage(private val root: Path) : Storage {
    override val sizes: Map<String, Long> = Files.walk(root, 9).use { paths ->
        val found = LinkedHashMap<String, Long>()
        for (path in paths) {
            val name = root.relativize(path).joinToString("/")
            when {
                Files.isRegularFile(path, NOFOLLOW_LINKS) -> found[name] = Files.size(path)
                !Files.isDirectory(path, NOFOLLOW_LINKS) && path != root ->
                    throw BundleException("the bundle has something that is no regular file: '$name'")
            }
            if (found.size > MAX_FILES) throw BundleException("the bundle has more than $MAX_FILES files")
        }
        found
    }

    override fun read(path: String): ByteArray =
        Files.newByteChannel(root.resolve(path), setOf(java.nio.file.StandardOpenOption.READ, NOFOLLOW_LINKS)).use {
            val data = ByteBuffer.allocate(sizes.getValue(path).toInt() + 1) // one more, to see that it did not grow
            while (it.read(data) > 0) { /* a read may be short */ }
            data.array().copyOf(data.position())
        }
}

/** The archive: a zip file of stored members that can be read in one way only (PKWARE APPNOTE.TXT 6.3.10). */
internal class ArchiveStorage(path: File) : Storage {
    private val file = RandomAccessFile(path, "r")
    private val begins = HashMap<String, Long>()
    override val sizes = LinkedHashMap<String, Long>()

    private class Member(val name: ByteArray, val repeated: ByteArray, val offset: Long, val size: Long)

    init {
        val length = file.length()
        if (length !in END..4_000_000_000) refuse("its size is $length bytes")
        val end = bytes(length - END, END)
        val count = number(end, 10, 2)
        val begin = number(end, 16, 4)
        if (number(end, 0, 4) != 0x06054b50L || number(end, 20, 2) != 0L) refuse("it does not end with a plain end record")
        if (number(end, 4, 4) != 0L || number(end, 8, 2) != count) refuse("it spans several disks")
        if (begin + number(end, 12, 4) != length - END || count > MAX_FILES) {
            refuse("its central directory is not where it should be")
        }
        var next = 0L
        for (member in directory(bytes(begin, length - END - begin), count).sortedBy { it.offset }) {
            val name = String(member.name, Charsets.US_ASCII)
            if (member.offset != next) refuse("its members do not lie side by side")
            begins[name] = member.offset + local(member)
            next = begins.getValue(name) + member.size
            if (next > begin || sizes.put(name, member.size) != null) refuse("'$name' overlaps")
        }
        if (next != begin) refuse("there are bytes between its members and its directory")
    }

    override fun read(path: String): ByteArray = bytes(begins.getValue(path), sizes.getValue(path))

    private fun directory(data: ByteArray, count: Long): List<Member> {
        val members = ArrayList<Member>()
        var at = 0
        repeat(count.toInt()) {
            if (at + ENTRY > data.size || number(data, at, 4) != 0x02014b50L) refuse("its directory is malformed")
            val size = number(data, at + 24, 4)
            val name = at + ENTRY + number(data, at + 28, 2).toInt()
            val mode = number(data, at + 38, 4)
            val plain = number(data, at + 8, 2) and 0x0800L.inv() == 0L && number(data, at + 10, 2) == 0L &&
                number(data, at + 20, 4) == size && size != 0xffffffffL && number(data, at + 30, 4) == 0L &&
                number(data, at + 34, 2) == 0L && (mode shr 16 and 0xf000) in setOf(0L, 0x8000L) && mode and 0x18 == 0L
            if (!plain || name > data.size) refuse("it has a member that is not a plain stored file")
            // Version, flags, method, time, date, CRC, sizes, length of the name: as the local header repeats them.
            val repeated = data.copyOfRange(at + 6, at + 30)
            members.add(Member(data.copyOfRange(at + ENTRY, name), repeated, number(data, at + 42, 4), size))
            at = name
        }
        if (at != data.size) refuse("its directory is longer than its entries")
        return members
    }

    /** Returns the size of the local header, which must repeat the entry. */
    private fun local(member: Member): Long {
        val header = bytes(member.offset, LOCAL + member.name.size)
        val same = number(header, 0, 4) == 0x04034b50L && header.copyOfRange(4, 28).contentEquals(member.repeated) &&
            number(header, 28, 2) == 0L && header.copyOfRange(LOCAL.toInt(), header.size).contentEquals(member.name)
        if (!same) refuse("the header of '${String(member.name, Charsets.US_ASCII)}' differs from its entry")
        return header.size.toLong()
    }

    private fun bytes(at: Long, size: Long): ByteArray {
        if (at + size > file.length() || size > MAX_FILE) refuse("it is cut short")
        return ByteArray(size.toInt()).also { file.seek(at); file.readFully(it) }
    }

    private fun refuse(why: String): Nothing = throw BundleException("the archive is not a bundle: $why")

    private companion object {
        const val END = 22L
        const val ENTRY = 46
        const val LOCAL = 30L

        fun number(bytes: ByteArray, at: Int, size: Int): Long =
            (size - 1 downTo 0).fold(0L) { value, i -> value shl 8 or (bytes[at + i].toLong() and 0xff) }
    }
}

private const val MAX_FILES = 4096
private const val MAX_FILE = Int.MAX_VALUE.toLong()
private val SEGMENT = Regex("[A-Za-z0-9_][A-Za-z0-9_.+=@,-]*(?<!\\.)")
private val DEVICE = Regex("(con|prn|aux|nul|com[0-9]|lpt[0-9])(\\..*)?", RegexOption.IGNORE_CASE)

/**
 * A bundle (docs/bundle-format.md): a folder or an `.edgefuse` archive.
 *
 * @param digest pins the bundle: only the one with this digest is opened.
 */
class Bundle(path: File, digest: String? = null) {
    private val storage: Storage = if (path.isDirectory) FolderStorage(path.toPath()) else ArchiveStorage(path)
    private val files: Map<String, Pair<String, Long>>
    private val backend: String?
    val digest: String
    val manifest: Fields
    val candidates: List<Fields>

    init {
        checkListing()
        val text = storage.read("manifest.json")
        this.digest = sha256(text)
        if (digest != null && digest != this.digest) {
            throw BundleException("the bundle is not the one that was pinned: it is ${this.digest}")
        }
        if (String(storage.read("manifest.sha256"), Charsets.US_ASCII) != "${this.digest}  manifest.json\n") {
            throw BundleException("manifest.json is damaged: its SHA-256 is not the one in manifest.sha256")
        }
        val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
        manifest = Fields.fields(Json.parse(decoder.decode(ByteBuffer.wrap(text)).toString()), "Manifest")
        val major = manifest.list("schema").first()
        if (major !in setOf(1L, 2L)) {
            throw BundleException("manifest.json is of schema $major, and this reader knows 1 and 2")
        }
        // Schema 1 has one backend for the whole bundle, and its schemes are objects, which nothing here looks into.
        backend = if (major == 1L) manifest.text("backend") else null
        manifest.only(*MANIFEST, *(if (backend == null) emptyArray() else arrayOf("backend")))
        candidates = manifest.items("candidates", "Candidate").onEach {
            it.only(*CANDIDATE, *(if (backend == null) arrayOf("backend", "accelerator", "exclude") else emptyArray()))
        }
        files = manifest.items("files", "File").associate {
            it.only("path", "sha256", "size_bytes")
            it.text("path") to (it.text("sha256") to it.number("size_bytes"))
        }
        (storage.sizes.keys - files.keys - OWN).firstOrNull()?.let {
            throw BundleException("the bundle has the file '$it', which its manifest does not list")
        }
        files.entries.firstOrNull { (name, about) -> storage.sizes[name] != about.second }?.let {
            throw BundleException("the file '${it.key}' is missing or of another size than the manifest says")
        }
    }

    /** Returns the name of the runtime that opens a candidate's file. */
    fun backend(candidate: Fields): String = backend ?: candidate.text("backend")

    /** Returns the bytes of a listed file after comparing them with the manifest. Use these bytes, not the path. */
    fun read(path: String): ByteArray {
        val (hash, size) = files[path] ?: throw BundleException("the manifest lists no file '$path'")
        val data = storage.read(path)
        if (data.size.toLong() != size || sha256(data) != hash) {
            throw BundleException("the file '$path' is damaged: its SHA-256 is not the one in the manifest")
        }
        return data
    }

    /** Checks names and sizes before anything is read. */
    private fun checkListing() {
        val seen = HashSet<String>()
        for ((path, size) in storage.sizes) {
            val segments = path.split('/')
            if (path.length > 200 || segments.size > 8 || segments.any { !SEGMENT.matches(it) || DEVICE.matches(it) }) {
                throw BundleException("the bundle has a path that is not allowed: '$path'")
            }
            if (!seen.add(path.lowercase())) throw BundleException("two files differ by case only: '$path'")
            if (size > MAX_FILE - 1) throw BundleException("the file '$path' is too large")
        }
        OWN.firstOrNull { it !in storage.sizes }?.let { throw BundleException("the bundle has no $it") }
        if (storage.sizes.getValue("manifest.json") > 4 shl 20) throw BundleException("manifest.json is too large")
    }

    private companion object {
        val OWN = setOf("manifest.json", "manifest.sha256")
        val MANIFEST = arrayOf(
            "schema", "target", "model", "stages", "candidates", "rungs", "default_rung", "golden", "files", "provenance",
            "streamed",
        )
        val CANDIDATE = arrayOf(
            "id", "stage", "target", "scheme", "file", "sha256", "size_bytes", "inputs", "outputs", "opset", "tolerance",
            "pruning", "plan",
        )

        fun sha256(data: ByteArray): String =
            MessageDigest.getInstance("SHA-256").digest(data).joinToString("") { "%02x".format(it) }
    }
}
